"""Sweeps: jobs, their order, pruning and records."""
