"""What arrives from clients and what is written back: limits, headers, bodies, disconnects. Knows no targets."""
