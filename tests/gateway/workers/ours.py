"""This project's worker: events as they gather; errors with their status, as JSON text, which the SDK leaves whole."""

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

CODES = {400: "context_length_exceeded", 500: None, 503: "unavailable"}
ERRORS = {"client_error": (400, TOO_LONG), "worker_error": (500, OUT_OF_MEMORY), "startup_error": (503, NO_CUDA)}


async def handle(job: Job) -> AsyncGenerator[str | Json, None]:
    what, is_stream = asked_for(job)
    if what in ERRORS:
        status, message = ERRORS[what]
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": CODES[status]}
        body = {"error": error, "status": status}
        yield event(body) + DONE if is_stream else {"error": json.dumps(body)}
    elif what == "answer" and is_stream:
        first, *rest = map(event, chunks())
        yield first
        yield "".join(rest) + DONE
    elif what == "answer":
        yield whole()


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda _: CONCURRENCY}
    )
