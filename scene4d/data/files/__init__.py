"""Files that other files name, and JSON: read with care."""
