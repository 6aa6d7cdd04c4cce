"""Seeded benchmark models and the interleaved comparison of skipjack with its peers."""
