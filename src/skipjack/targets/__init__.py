"""Layer 2: what a CPU can do: vector length, registers, features."""
