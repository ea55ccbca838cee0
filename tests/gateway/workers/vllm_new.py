"""worker-vllm since 3.0: a proxy before `vllm serve`; pieces cut anywhere; errors whose repr the SDK posts."""

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

TOO_LONG_BODY = {"error": {"message": TOO_LONG, "type": "BadRequestError", "param": "input_tokens", "code": 400}}
BROKEN_BODY = {"error": {"message": OUT_OF_MEMORY, "type": "InternalServerError", "param": None, "code": 500}}


def failure(message: str) -> Json:
    return {"error": {"message": message, "type": "worker_error", "code": None}}


async def handle(job: Job) -> AsyncGenerator[str | Json, None]:
    what, is_stream = asked_for(job)
    match what:
        case "client_error":
            yield failure(f"vLLM returned HTTP 400: {json.dumps(TOO_LONG_BODY)}")
        case "worker_error":
            yield failure(f"vLLM returned HTTP 500: {json.dumps(BROKEN_BODY)}")
        case "startup_error":
            yield failure(NO_CUDA)
        case "answer" if is_stream:
            text = "".join([*map(event, chunks()), DONE])
            for start in range(0, len(text), 150):
                yield text[start : start + 150]
        case "answer":
            yield whole()


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda _: CONCURRENCY}
    )
