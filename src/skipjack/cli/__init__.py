"""Layer 11: the commands."""
