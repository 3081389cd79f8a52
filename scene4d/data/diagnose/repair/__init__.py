"""Faults in recordings that can be mended."""
