"""Training windows over many recordings: chosen, normalised, augmented, sharded, resumable."""
