"""Importing this module registers every operator."""
