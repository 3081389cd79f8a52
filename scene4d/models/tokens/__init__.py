"""Scenes as tokens on anchors: what families on the Gaussian VAE have in common."""
