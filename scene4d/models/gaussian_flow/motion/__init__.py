"""Motion of anchors: targets, noise levels, sampling, calibration."""
