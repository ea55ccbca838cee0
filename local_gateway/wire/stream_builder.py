"""A whole answer → the stream that spells it: for clients that asked for a stream, and were sent a whole answer.

Every field of the answer is in some event. Pure.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from local_gateway.wire.sse import DONE, Event, encode_named

Json = dict[str, Any]

PATHS = ("/chat/completions", "/completions", "/responses", "/messages")  # whose answers can be streamed
# What the events of an item of /responses spell, by the item's part.
TEXT_PARTS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}


def is_whole(path: str, body: object) -> bool:
    """Whether a parsed body is an answer that `stream_of` can spell."""
    if not isinstance(body, dict):
        return False
    match path:
        case "/chat/completions" | "/completions":
            choices = body.get("choices")
            key = "message" if path == "/chat/completions" else "text"
            return bool(choices) and isinstance(choices, list) and all(_is_choice(choice, key) for choice in choices)
        case "/responses":
            return body.get("object") == "response" and isinstance(body.get("output"), list)
        case "/messages":
            return body.get("type") == "message" and isinstance(body.get("content"), list)
    return False


def stream_of(path: str, body: Json) -> list[Event]:
    """Its events, [DONE] included where the path's streams end with it. `body` is whole: see is_whole."""
    match path:
        case "/responses":
            return [_named(number, chunk) for number, chunk in enumerate(_response_events(body))]
        case "/messages":
            return [_named(None, chunk) for chunk in _message_events(body)]
        case "/chat/completions":
            return [*map(Event.of, _chat_chunks(body)), Event(DONE)]
    return [*map(Event.of, _completion_chunks(body)), Event(DONE)]


def _is_choice(choice: object, key: str) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get(key), dict if key == "message" else str)


def _named(number: int | None, chunk: Json) -> Event:
    numbered = chunk if number is None else {**chunk, "sequence_number": number}
    return Event(encode_named(numbered))


def _chat_chunks(body: Json) -> Iterator[Json]:
    """For each choice its message, and then why it ended; last the token counts."""
    head = {key: value for key, value in body.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    for index, choice in enumerate(body["choices"]):
        number = choice.get("index", index)
        more = {key: value for key, value in choice.items() if key not in ("index", "message", "finish_reason")}
        delta = {key: value for key, value in choice["message"].items() if value is not None}
        if (text := _text_of_parts(delta.get("content"))) is not None:
            delta["content"] = text
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(calls)]
        yield head | {"choices": [{"index": number, "delta": delta, **more, "finish_reason": None}]}
        reason = choice.get("finish_reason") or ("tool_calls" if calls else "stop")
        yield head | {"choices": [{"index": number, "delta": {}, "finish_reason": reason}]}
    yield from _usage_chunk(head, body)


def _text_of_parts(content: object) -> str | None:
    """Of a content in parts, if all are plain text: readers of streams join texts."""
    if not isinstance(content, list) or not content:
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.keys() == {"type", "text"}]
    if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
        return None
    return "".join(map(str, texts))


def _completion_chunks(body: Json) -> Iterator[Json]:
    head = {key: value for key, value in body.items() if key not in ("choices", "usage")}
    for choice in body["choices"]:
        yield head | {"choices": [choice]}
    yield from _usage_chunk(head, body)


def _usage_chunk(head: Json, body: Json) -> Iterator[Json]:
    if body.get("usage"):
        yield head | {"choices": [], "usage": body["usage"]}


def _response_events(body: Json) -> Iterator[Json]:
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for at, item in enumerate(body["output"]):
        yield {"type": "response.output_item.added", "output_index": at, "item": _begun_item(item)}
        yield from _item_events(at, item)
        yield {"type": "response.output_item.done", "output_index": at, "item": item}
    status = body.get("status")
    yield {"type": f"response.{status if status in ('incomplete', 'failed') else 'completed'}", "response": body}


def _begun_item(item: Json) -> Json:
    empty: Json = {"content": [], "arguments": "", "status": "in_progress"}
    return {**item, **{key: value for key, value in empty.items() if key in item}}


def _item_events(at: int, item: Json) -> Iterator[Json]:
    place = {"item_id": item.get("id", ""), "output_index": at}
    if item.get("type") == "function_call":
        arguments = item.get("arguments", "")
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments}
    parts = item.get("content")
    for index, part in enumerate(parts if isinstance(parts, list) else []):
        here, kind = {**place, "content_index": index}, part.get("type", "")
        if (field := TEXT_PARTS.get(kind)) is None:
            continue  # it is in output_item.done
        logprobs = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        yield {"type": "response.content_part.added", **here, "part": {**part, field: ""}}
        yield {"type": f"response.{kind}.delta", **here, "delta": part.get(field, ""), **logprobs}
        yield {"type": f"response.{kind}.done", **here, field: part.get(field, ""), **logprobs}
        yield {"type": "response.content_part.done", **here, "part": part}


def _message_events(body: Json) -> Iterator[Json]:
    usage = body.get("usage") or {}
    begun = {**body, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 0}}
    yield {"type": "message_start", "message": begun}
    for at, block in enumerate(body["content"]):
        empty, delta = _block_delta(block)
        yield {"type": "content_block_start", "index": at, "content_block": empty}
        for each in delta:
            yield {"type": "content_block_delta", "index": at, "delta": each}
        yield {"type": "content_block_stop", "index": at}
    ended = {"stop_reason": body.get("stop_reason"), "stop_sequence": body.get("stop_sequence")}
    yield {"type": "message_delta", "delta": ended, "usage": usage}
    yield {"type": "message_stop"}


def _block_delta(block: Json) -> tuple[Json, list[Json]]:
    """A block as it begins, and what it is then filled with."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block.get("text", "")}]
        case "tool_use":
            text = orjson.dumps(block.get("input", {})).decode()
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
        case "thinking":
            signed = [{"type": "signature_delta", "signature": block["signature"]}] if block.get("signature") else []
            thought = {"type": "thinking_delta", "thinking": block.get("thinking", "")}
            return {**block, "thinking": "", "signature": ""}, [thought, *signed]
    return block, []
