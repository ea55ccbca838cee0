"""One running gateway: its socket, its routes, and the main line of one request."""
