"""Episodes of robot data sets that have a layout of their own."""
