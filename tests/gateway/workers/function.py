"""A plain function: no generator, so it never streams, and it returns its errors or raises them."""

import runpod

from tests.gateway.workers.common import CONCURRENCY, NO_CUDA, OUT_OF_MEMORY, TOO_LONG, Job, Json, asked_for, whole


def handle(job: Job) -> Json | None:
    what, _ = asked_for(job)
    match what:
        case "client_error":
            return {"error": TOO_LONG}
        case "worker_error":
            raise RuntimeError(OUT_OF_MEMORY)
        case "startup_error":
            return {"error": {"message": NO_CUDA}}
        case "nothing":
            return None
    return whole()


if __name__ == "__main__":
    runpod.serverless.start({"handler": handle, "concurrency_modifier": lambda _: CONCURRENCY})
