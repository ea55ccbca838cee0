"""worker-sglang: a proxy that reads lines, so that events come without their ends; other answers are JSON text."""

import json
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
            error = {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "param": None, "code": 400}
            yield json.dumps(error)
        case "worker_error":
            yield {"error": f"Request failed with status code 500: {json.dumps({'detail': OUT_OF_MEMORY})}"}
        case "startup_error":
            raise RuntimeError(NO_CUDA)
        case "answer" if is_stream:
            for each in [*map(event, chunks()), DONE]:
                yield each.rstrip("\n")
        case "answer":
            yield json.dumps(whole())


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda _: CONCURRENCY}
    )
