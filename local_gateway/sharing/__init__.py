"""Answers that several requests share: single-flight calls and cached responses. Knows no targets."""
