"""Runs: recordings to windows to trained weights."""
