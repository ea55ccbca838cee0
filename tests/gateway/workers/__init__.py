"""Seven kinds of RunPod workers, by the shapes they were seen to give, on RunPod's real SDK and without a model.

Each is a process, `python -m tests.gateway.workers.NAME`, whose answer is chosen by the request's `user`: "answer",
"client_error", "worker_error", "startup_error" or "nothing".
"""
