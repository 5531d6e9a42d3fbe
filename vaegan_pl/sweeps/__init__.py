"""Sweeps: planning, jobs and their records, pruning, ranking."""
