"""Gaussians from RGB-D frames."""
