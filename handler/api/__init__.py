"""The OpenAI surface: requests in, chunks and answers out. Knows nothing about jobs, sockets and slots."""
