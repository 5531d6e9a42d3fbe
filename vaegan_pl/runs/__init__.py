"""The directory of a run, and the configuration stored in it."""
