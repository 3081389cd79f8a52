"""LeRobot data sets, v2.0 to v3.0: read, joined and written."""
