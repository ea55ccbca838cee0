"""The HTTP edge: a server for load-balancing endpoints, pods and laptops. Knows nothing of RunPod's jobs."""

from handler.deferred_package import defer

defer("uvicorn")  # whose command line it would import, with a reloader that watches files
