"""Is the calibration right, where there is no depth? Points found in two pictures, and pictures that move or do not."""
