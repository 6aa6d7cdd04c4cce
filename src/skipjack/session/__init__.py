"""Between the run time and the engine: what a call may pass, who runs it, what it measures."""
