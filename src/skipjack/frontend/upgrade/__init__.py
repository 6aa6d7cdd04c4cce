"""Rewriting older versions of default-domain operators to their newest form."""
