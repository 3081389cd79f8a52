"""The options of every verb. No module here imports torch, so that help and refusals come at once."""
