"""Measurements: each a command that prints a table with a peer beside it."""
