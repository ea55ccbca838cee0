"""From the setting MODEL to a GGUF file on this machine. Knows nothing about llama.cpp."""
