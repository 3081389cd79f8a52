"""Recorded frames to Gaussians: unproject, fuse, track, fit."""
