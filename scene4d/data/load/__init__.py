"""Training windows over many recordings: enumerated at once, read when they are needed, resumable."""
