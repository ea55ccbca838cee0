"""Conversations as text. Pure: no engine, no files, no network."""
