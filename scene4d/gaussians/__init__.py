"""Gaussians without a network: editing, motion, files."""
