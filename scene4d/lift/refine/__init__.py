"""Gaussians optimised against pictures."""
