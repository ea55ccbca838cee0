"""A RunPod serverless worker: a GGUF model in llama.cpp behind OpenAI requests and responses."""
