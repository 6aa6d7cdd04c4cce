"""Layer 1: what a model name means: a path, hf:, zoo: -> files on this machine."""
