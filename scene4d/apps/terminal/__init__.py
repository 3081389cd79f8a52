"""Options, progress and pictures of the command line."""
