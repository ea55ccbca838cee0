"""runpod-worker-ollama and its llama.cpp fork: openai-python between SDK and server, so that errors are its texts."""

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


def exception_text(status: int, message: str, kind: str) -> str:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return f"Error code: {status} - {body}"


async def handle(job: Job) -> AsyncGenerator[str | Json, None]:
    what, is_stream = asked_for(job)
    match what:
        case "client_error":
            yield {"error": exception_text(400, TOO_LONG, "invalid_request_error")}
        case "worker_error":
            yield {"error": exception_text(500, OUT_OF_MEMORY, "api_error")}
        case "startup_error":
            yield {"error": NO_CUDA}
        case "answer" if is_stream:
            for each in map(event, chunks()):
                yield each
            yield "data: [DONE]"
        case "answer":
            yield whole()


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda _: CONCURRENCY}
    )
