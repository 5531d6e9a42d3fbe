"""The model: networks, losses, Algorithm 1, its Lightning module and its portable file."""
