"""Layer 1: types, the graph, its text form and its checks."""
