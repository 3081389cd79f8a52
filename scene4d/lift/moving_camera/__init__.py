"""One moving RGB-D camera."""
