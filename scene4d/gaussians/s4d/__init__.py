"""The .s4d container: write, read, append."""
