"""Layer 5: memory, threads and the walk over the plan."""
