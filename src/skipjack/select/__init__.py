"""Layer 4: which kernel and which layout each node gets, with the reason."""
