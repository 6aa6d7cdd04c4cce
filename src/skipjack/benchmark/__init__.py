"""Measuring: engines side by side, peaks of the machine, what a model could gain."""
