"""Continuous batching over llama.cpp. Knows tokens, text and slots; nothing about OpenAI, RunPod or messages."""
