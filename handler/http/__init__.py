"""The HTTP edge: a server for load-balancing endpoints, pods and laptops. Knows nothing of RunPod's jobs."""
