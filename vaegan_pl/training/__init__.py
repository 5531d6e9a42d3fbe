"""Training with Lightning: stepping, callbacks, checkpoints, loggers."""
