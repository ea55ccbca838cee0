"""What targets send, event by event: OpenAI as it is documented, llama.cpp's server and others as they were seen."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"
NUM_USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
EMBEDDING: Json = {
    "object": "list",
    "model": "model",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}


def event(data: Json) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A chat chunk; without a delta it has no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "model"}
    return event({**head, "choices": choices, **more})


def text_events(*texts: str, usage: bool = False) -> list[bytes]:
    """A chat as OpenAI streams it."""
    start, end = chunk({"role": "assistant", "content": ""}), chunk({}, "stop")
    counts = [chunk(usage=NUM_USAGE)] if usage else []
    return [start, *(chunk({"content": text}) for text in texts), end, *counts, DONE]


def completion(*texts: str) -> list[bytes]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "model"}
    choices: list[Json] = [{"index": 0, "text": text, "logprobs": None, "finish_reason": None} for text in texts]
    choices.append({"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"})
    return [*(event({**head, "choices": [choice]}) for choice in choices), DONE]


def answer_of(kind: str, text: str) -> Json:
    """Not streamed."""
    is_chat = kind == "chat/completions"
    content: Json = {"message": {"role": "assistant", "content": text, "refusal": None}} if is_chat else {"text": text}
    return {
        "id": "chatcmpl-1" if is_chat else "cmpl-1",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 1_700_000_000,
        "model": "model",
        "choices": [{"index": 0, "logprobs": None, "finish_reason": "stop", **content}],
        "usage": NUM_USAGE,
    }


def models_of(*names: str) -> Json:
    data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "fake"} for name in names]
    return {"object": "list", "data": data}


def events_of(events: Sequence[bytes]) -> list[bytes]:
    """All in one write, as a short answer arrives."""
    return [b"".join(events)]


def response_event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, **more})


_RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "model": "model",
    "output": [],
    "status": "in_progress",
}
_COUNTS = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 9,
}
_PART = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
OPENAI_RESPONSES = b"".join(
    [
        response_event("response.created", sequence_number=0, response=_RESPONSE),
        response_event("response.output_text.delta", sequence_number=1, delta="Par", **_PART),
        response_event("response.output_text.delta", sequence_number=2, delta="is.", **_PART),
        response_event(
            "response.completed",
            sequence_number=3,
            response={**_RESPONSE, "status": "completed", "usage": _COUNTS},
        ),
    ]
)

# What was seen of llama.cpp's server, and what breaks one client or another. Each item is one write.
LLAMA_SERVER = [chunk({"role": "assistant", "content": None}), *text_events("Par", "is.")[1:]]
NO_FINISH = [*text_events("Par", "is.")[:3], DONE]
NO_DONE = text_events("Par", "is.")[:-1]
DONE_WITHOUT_BLANK_LINE = [*text_events("Par", "is.")[:-1], b"data: [DONE]\n"]
TEXT_WITH_FINISH = [*text_events("Par")[:2], chunk({"content": "is."}, "stop"), DONE]
ALL_AT_ONCE = events_of(LLAMA_SERVER)
COMMENTS = [b": ping\n\n", text_events("Par", "is.")[0], b": ping\n\n", *text_events("Par", "is.")[1:]]
USAGE_AT_END = text_events("Par", "is.", usage=True)
AZURE = [chunk(prompt_filter_results=[]), *text_events("Par", "is.")]
REASONING = [*text_events()[:1], chunk({"reasoning_content": "Hm."}), *text_events("Par", "is.")[1:]]
BROKEN = [*text_events("Par")[:2], event({"error": {"message": "out of memory", "type": "server_error"}}), DONE]


def cut(whole: bytes, *places: int) -> list[bytes]:
    """Into pieces that begin at these places."""
    borders = [0, *places, len(whole)]
    return [whole[start:end] for start, end in pairwise(borders)]


def cut_in_a_character() -> list[bytes]:
    """A character of four bytes that arrives in two pieces."""
    whole = b"".join(text_events("\N{CAT FACE}!"))
    return cut(whole, whole.index("\N{CAT FACE}".encode()) + 2)
