"""Measure the speed of training on this machine. Training does not import this package."""
