"""Measurements behind the claims about a model: fidelity, variety, usefulness, privacy."""
