"""Numbers for every claim about a model: fidelity, variety, usefulness, privacy."""
