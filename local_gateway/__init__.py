"""One OpenAI address for RunPod endpoints, OpenAI, and a worker on this machine."""
