"""The action head: rendered views of now and of the forecast to a chunk of actions."""
