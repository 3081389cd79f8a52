"""The verbs of the command line: the only place where stages meet."""
