"""OpenAI's wire format: server-sent events, answers, and the repairs of streams."""
