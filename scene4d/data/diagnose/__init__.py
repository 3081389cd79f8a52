"""What is wrong with a recording, with a figure for it, and how it is mended in a copy."""
