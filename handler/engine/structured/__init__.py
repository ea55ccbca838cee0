"""Answers constrained to a grammar: compilation, checks, token masks."""
