"""Layer 1: the kernel language: scalar expressions, the kernel tracer, the interpreter that is its meaning."""
