"""Rendering: Gaussians and cameras to Frames, and losses between Frames."""
