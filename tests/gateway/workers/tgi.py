"""A worker before text-generation-inference: `data:` without a space, errors as text with a type, as objects."""

from collections.abc import AsyncGenerator

import runpod

from tests.gateway.workers.common import (
    CONCURRENCY,
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
        case "client_error" if is_stream:
            yield event({"error": f"Input validation error: {TOO_LONG}", "error_type": "validation"})
        case "client_error":
            yield {"error": f"Input validation error: {TOO_LONG}", "error_type": "validation"}
        case "worker_error" if is_stream:
            yield event({"error": f"Request failed during generation: {OUT_OF_MEMORY}", "error_type": "generation"})
        case "worker_error":
            yield {"error": f"Request failed during generation: {OUT_OF_MEMORY}", "error_type": "generation"}
        case "startup_error":
            yield {"error": NO_CUDA}
        case "answer" if is_stream:
            for each in map(event, chunks()):
                yield each.replace("data: ", "data:")
        case "answer":
            yield whole()


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda _: CONCURRENCY}
    )
