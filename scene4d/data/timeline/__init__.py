"""Frames in time: the table that every reader builds, even grids, stretches."""
