"""Layer 0: element types, sizes, errors, knobs, CPU detection, tracing."""
