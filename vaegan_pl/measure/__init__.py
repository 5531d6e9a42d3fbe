"""How fast training is on this machine: against a naive loop, against the machine's own rate, and by part."""
