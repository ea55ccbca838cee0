"""A stream of events → the whole answer that it spells: for clients that asked for no stream, and were sent one.

Every field of every chunk is in the result: texts are joined, lists grow by their `index`, of other values the last
counts. What a path's stream cannot be joined from raises; nothing is dropped in silence. Pure.
"""

from collections.abc import Iterable
from typing import Any

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire.sse import Event

Json = dict[str, Any]

PATHS = ("/chat/completions", "/completions", "/responses", "/messages")  # whose streams can be joined
LAST = ("response.completed", "response.incomplete")  # events of /responses that hold the whole answer
SCALARS = {"id", "object", "type", "role", "index", "name", "model", "finish_reason"}  # said again, not continued
TOOL_INPUT = "input"  # of Anthropic's tool_use, spelled by partial_json


def collect(path: str, events: Iterable[Event]) -> Json:
    """The whole answer. Raises AnswerBrokenError if an event cannot be understood, or there is no answer in them."""
    chunks = [event.chunk for event in events if event.data and not event.is_done]
    objects = [chunk for chunk in chunks if isinstance(chunk, dict)]
    if len(objects) != len(chunks):
        raise AnswerBrokenError("The target answered with a stream, of which an event is not JSON.")
    match path:
        case "/responses":
            whole = next((chunk.get("response") for chunk in reversed(objects) if chunk.get("type") in LAST), None)
        case "/messages":
            whole = _message(objects)
        case _:
            whole = _completion(objects, is_chat=path == "/chat/completions")
    if not isinstance(whole, dict):
        raise AnswerBrokenError("The target answered with a stream, which holds no answer.")
    return whole


def _completion(chunks: list[Json], *, is_chat: bool) -> Json | None:
    whole: Json = {}
    choices: dict[int, Json] = {}
    for chunk in chunks:
        whole |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        for choice in chunk.get("choices") or []:
            _merge(choices.setdefault(choice.get("index", 0), {}), _whole_choice(choice) if is_chat else choice)
    if not choices:
        return None
    whole["object"] = "chat.completion" if is_chat else "text_completion"
    whole["choices"] = [_finished(choices[index], index, is_chat=is_chat) for index in sorted(choices)]
    return whole


def _whole_choice(choice: Json) -> Json:
    return {**{key: value for key, value in choice.items() if key != "delta"}, "message": choice.get("delta") or {}}


def _finished(choice: Json, index: int, *, is_chat: bool) -> Json:
    if not is_chat:
        return {"text": "", **choice, "index": index, "finish_reason": choice.get("finish_reason") or "stop"}
    message = choice.pop("message", {})
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        call.pop("index", None)
    whole = {"role": "assistant", "content": None if calls else "", **message}
    reason = choice.get("finish_reason") or ("tool_calls" if calls else "stop")
    return {**choice, "index": index, "message": whole, "finish_reason": reason}


def _message(chunks: list[Json]) -> Json | None:
    """Anthropic's: message_start, then blocks by index, then what message_delta changes."""
    whole: Json = {}
    blocks: dict[int, Json] = {}
    for chunk in chunks:
        match chunk.get("type"):
            case "message_start":
                whole = dict(chunk["message"])
            case "content_block_start":
                blocks[chunk["index"]] = dict(chunk["content_block"])
            case "content_block_delta":
                _grow(blocks[chunk["index"]], chunk["delta"])
            case "content_block_stop":
                _parse_input(blocks[chunk["index"]])
            case "message_delta":
                whole |= chunk["delta"]
                whole["usage"] = {**(whole.get("usage") or {}), **(chunk.get("usage") or {})}
    return {**whole, "content": [blocks[index] for index in sorted(blocks)]} if whole else None


def _grow(block: Json, delta: Json) -> None:
    if "partial_json" in delta:
        held = block[TOOL_INPUT] if isinstance(block.get(TOOL_INPUT), str) else ""
        block[TOOL_INPUT] = held + delta["partial_json"]
        return
    _merge(block, {key: value for key, value in delta.items() if key != "type"})


def _parse_input(block: Json) -> None:
    if isinstance(text := block.get(TOOL_INPUT), str):
        block[TOOL_INPUT] = Event(b"data: " + text.encode()).chunk if text else {}


def _merge(known: Json, news: Json) -> None:
    """Continue `known` by a delta."""
    for key, value in news.items():
        old = known.get(key)
        if old is None or value is None:
            known[key] = value if old is None else old
        elif isinstance(old, str) and isinstance(value, str):
            known[key] = value if key in SCALARS else old + value
        elif isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            _merge_lists(old, value)
        else:
            known[key] = value


def _merge_lists(known: list[Any], news: list[Any]) -> None:
    """Items with an `index` continue the item with the same one; others are added."""
    for item in news:
        index = item.get("index") if isinstance(item, dict) else None
        same = (each for each in known if index is not None and isinstance(each, dict) and each.get("index") == index)
        if (old := next(same, None)) is not None:
            _merge(old, item)
        else:
            known.append(item)
