"""Colour pictures with a pose each: transforms.json and COLMAP."""
