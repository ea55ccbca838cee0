"""worker-vllm up to 2.22: the engine in its process; batches that grow; vLLM's flat error object."""

from collections.abc import AsyncGenerator

import runpod

from tests.gateway.workers.common import (
    CONCURRENCY,
    DONE,
    NO_CUDA,
    OUT_OF_MEMORY,
    TOO_LONG,
    Job,
    Json,
    asked_for,
    chunks,
    event,
    whole,
)


async def handle(job: Job) -> AsyncGenerator[str | Json, None]:
    what, is_stream = asked_for(job)
    match what:
        case "client_error":
            yield {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "param": None, "code": 400}
        case "worker_error":
            yield {"error": OUT_OF_MEMORY}
        case "startup_error":
            yield {"error": NO_CUDA}
        case "answer" if is_stream:
            events = [*map(event, chunks()), DONE]
            yield events[0]
            yield "".join(events[1:4])
            yield "".join(events[4:])
        case "answer":
            yield whole()


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda _: CONCURRENCY}
    )
