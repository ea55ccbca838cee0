"""The documentation as a reader meets it: `python -m tests.docs` runs its commands."""
