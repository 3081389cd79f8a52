"""The streaming scene memory."""
