"""The model: networks, losses, Algorithm 1, and portable model files."""
