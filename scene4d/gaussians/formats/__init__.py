"""Gaussians in the formats of others."""
