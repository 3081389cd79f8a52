"""Depth from posed pictures."""
