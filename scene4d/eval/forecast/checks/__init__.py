"""Single questions about a world model."""
