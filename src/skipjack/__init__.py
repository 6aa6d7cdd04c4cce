"""skipjack: neural networks on CPUs, fast because zeros are skipped."""

__version__ = "0.1.0.dev0"
