"""Calibration of cameras: what is stored beside a recording, lenses, and checks."""
