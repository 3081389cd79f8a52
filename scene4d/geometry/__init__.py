"""Rotations, rigid poses, cameras and spherical harmonics, in plain torch."""
