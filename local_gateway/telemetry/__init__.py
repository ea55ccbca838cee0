"""Logs, metrics and traces. None of them holds a prompt, an answer or a key."""
