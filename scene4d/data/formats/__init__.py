"""Foreign formats in, one file each: every reader gives a `Recording`."""
