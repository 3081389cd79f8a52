"""Training that knows only loss(batch): loop, optimiser, checkpoints, log."""
