"""Is the calibration right? Reprojection, registration and likely explanations."""
