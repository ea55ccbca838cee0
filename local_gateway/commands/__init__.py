"""The command line: the gateway itself, its check, keys, usage and the chat in a terminal."""
