"""What the workers say, before each puts it into its own shape."""

import json
from typing import Any

Json = dict[str, Any]
Job = dict[str, Any]

CONCURRENCY = 20  # jobs at once
HEAD: Json = {"id": "chatcmpl-1", "created": 1, "model": "m"}
USAGE: Json = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
TEXTS = ("he", "l", "lo")
TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"
NO_CUDA = "CUDA is not available. torch.cuda.is_available() returned False."


def asked_for(job: Job) -> tuple[str, bool]:
    """What is to happen, and whether as a stream."""
    body = job["input"].get("openai_input") or {}
    return body.get("user", "answer"), body.get("stream") is True


def chunk(delta: Json | None = None, finish: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}


def chunks() -> list[Json]:
    usage = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
    texts = [chunk({"content": text}) for text in TEXTS]
    return [chunk({"role": "assistant", "content": ""}), *texts, chunk(finish="stop"), usage]


def event(data: object) -> str:
    return f"data: {json.dumps(data)}\n\n"


DONE = "data: [DONE]\n\n"


def whole() -> Json:
    message = {"role": "assistant", "content": "".join(TEXTS)}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    return {**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE}
