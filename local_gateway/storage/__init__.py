"""Keys and usage in SQLite or PostgreSQL, written by one thread."""
