"""Training with Lightning: the module, callbacks, checkpoints, loggers."""
