"""Anthropic's Messages, spoken to a target that has chat completions only: request, answer, stream. Pure.

Every field of the request becomes chat's, is the same there, or is refused by name. Tools that Anthropic's own servers
would run are left out: no target has them.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from local_gateway.errors import InvalidRequestError
from local_gateway.wire.offered_tools import CHANGES, offered_tools
from local_gateway.wire.reported_usage import usage_in

Json = dict[str, Any]

REFUSED = ("mcp_servers", "container")  # what only Anthropic's servers can do
EDITS = "context_management"
# Taken over under chat's name, or of no effect.
READ = {
    "system",
    "messages",
    "tools",
    "tool_choice",
    "stop_sequences",
    "metadata",
    "thinking",
    "output_config",
    EDITS,
    *REFUSED,
}
STOP_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
EFFORT_TOKENS = ((4_096, "low"), (16_384, "medium"))  # of a budget for thinking; above it is high
# Claude Code's first line, for Anthropic's accounting. It differs each time: no prefix would be found in a cache.
ATTRIBUTION = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def to_chat(body: Json) -> Json:
    """The chat request. Raises InvalidRequestError for what chat completions cannot say."""
    if refused := next((name for name in REFUSED if body.get(name)), ""):
        raise InvalidRequestError(f"`{refused}` cannot be used with this model.", param=refused)
    if any(not str(kind).startswith("clear_thinking_") for kind in _edits(body.get(EDITS))):
        raise InvalidRequestError(f"These edits of `{EDITS}` cannot be used with this model.", param=EDITS)
    chat = {name: value for name, value in body.items() if name not in READ}
    chat["messages"] = [*_system(body.get("system")), *_messages(body.get("messages"))]
    tools = [_tool(tool) for tool in offered_tools(body)]
    user = (body.get("metadata") or {}).get("user_id")
    optional = {
        "tools": tools,
        "stop": body.get("stop_sequences"),
        "user": user,
        "reasoning_effort": _effort(body),
        "response_format": _format(body.get("output_config")),
        **(_tool_choice(body.get("tool_choice")) if tools else {}),
    }
    return chat | {name: value for name, value in optional.items() if value not in (None, [], "")}


def _edits(management: object) -> list[object]:
    """The kinds of edits that are asked for. Thoughts of earlier turns are cleared by templates in any case."""
    edits = management.get("edits") if isinstance(management, dict) else management
    return (
        [edit.get("type") if isinstance(edit, dict) else edit for edit in edits or []]
        if isinstance(edits, list)
        else []
    )


def _system(system: object) -> list[Json]:
    texts = [system] if isinstance(system, str) else _texts(system)
    text = "\n\n".join(filter(None, (ATTRIBUTION.sub("", text) for text in texts)))
    return [{"role": "system", "content": text}] if text else []


def _texts(blocks: object) -> Iterator[str]:
    for block in blocks if isinstance(blocks, list) else []:
        if not isinstance(block, dict) or block.get("type") != "text":
            raise InvalidRequestError("Only text blocks can be used here.", param="messages")
        yield str(block.get("text", ""))


def _messages(messages: object) -> Iterator[Json]:
    if not isinstance(messages, list):
        raise InvalidRequestError("`messages` must be a list.", param="messages")
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequestError("Each message must be an object.", param="messages")
        content = message.get("content")
        if message.get("role") == "system" and (content is None or _is_cleared(message, messages[at + 1 :])):
            continue
        if isinstance(content, str):
            yield {"role": message.get("role"), "content": content}
        elif message.get("role") == "assistant":
            yield _assistant(_blocks(content))
        else:
            yield from _user(message.get("role"), _blocks(content))


def _is_cleared(message: Json, later: list[Any]) -> bool:
    """Whether a system message that is for one turn alone has been followed by the next."""
    is_short = message.get("clear_at") == "next_user_message"
    return is_short and any(isinstance(other, dict) and other.get("role") == "user" for other in later)


def _blocks(content: object) -> list[Json]:
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise InvalidRequestError("`content` must be text or a list of blocks.", param="messages")
    return content


def _assistant(blocks: list[Json]) -> Json:
    texts, thoughts, calls = [], [], []
    for block in blocks:
        match block.get("type"):
            case "text":
                texts.append(str(block.get("text", "")))
            case "thinking":
                thoughts.append(str(block.get("thinking", "")))
            case "redacted_thinking":
                pass  # only Anthropic can read it
            case "tool_use":
                function = {"name": block.get("name"), "arguments": orjson.dumps(block.get("input") or {}).decode()}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case kind:
                raise _unknown_block(kind)
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    return (
        message
        | ({"reasoning_content": "".join(thoughts)} if thoughts else {})
        | ({"tool_calls": calls} if calls else {})
    )


def _user(role: object, blocks: list[Json]) -> Iterator[Json]:
    """Results of tools first: chat wants them right after the calls."""
    for block in blocks:
        if block.get("type") == "tool_result":
            content = block.get("content", "")
            text = content if isinstance(content, str) else "\n".join(_result_texts(content or []))
            text = f"Error: {text}" if block.get("is_error") else text
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
    if parts := [_part(block) for block in blocks if block.get("type") not in ("tool_result", *CHANGES)]:
        is_text = all(part["type"] == "text" for part in parts)
        yield {"role": role, "content": "\n".join(part["text"] for part in parts) if is_text else parts}


def _result_texts(blocks: list[Json]) -> Iterator[str]:
    for block in blocks:
        is_reference = isinstance(block, dict) and block.get("type") == "tool_reference"
        yield from [str(block.get("tool_name", ""))] if is_reference else _texts([block])


def _part(block: Json) -> Json:
    source = block.get("source") if isinstance(block.get("source"), dict) else {}
    assert source is not None
    match block.get("type"), source.get("type"):
        case "text", _:
            return {"type": "text", "text": str(block.get("text", ""))}
        case "image", "url":
            return {"type": "image_url", "image_url": {"url": source.get("url")}}
        case "image", "base64":
            url = f"data:{source.get('media_type')};base64,{source.get('data')}"
            return {"type": "image_url", "image_url": {"url": url}}
        case "document", "text":
            return {"type": "text", "text": str(source.get("data", ""))}
    raise _unknown_block(block.get("type"))


def _unknown_block(kind: object) -> InvalidRequestError:
    return InvalidRequestError(f"A block of type {str(kind)[:40]!r} cannot be used with this model.", param="messages")


def _tool(tool: Json) -> Json:
    names = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
    return {"type": "function", "function": {new: tool[old] for old, new in names.items() if old in tool}}


def _tool_choice(choice: object) -> Json:
    if not isinstance(choice, dict):
        return {}
    kind = choice.get("type")
    named = {"type": "function", "function": {"name": choice.get("name")}}
    told: Json = {"tool_choice": named if kind == "tool" else TOOL_CHOICES.get(str(kind))}
    return told | ({"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {})


def _effort(body: Json) -> str | None:
    config, thinking = body.get("output_config") or {}, body.get("thinking") or {}
    later = [message.get("output_config") or {} for message in body.get("messages") or [] if isinstance(message, dict)]
    if efforts := [each["effort"] for each in (config, *later) if isinstance(each, dict) and each.get("effort")]:
        return str(efforts[-1])
    if thinking.get("type") != "enabled":
        return None
    budget = thinking.get("budget_tokens") or 0
    return next((effort for limit, effort in EFFORT_TOKENS if budget <= limit), "high")


def _format(config: object) -> Json | None:
    wanted = config.get("format") if isinstance(config, dict) else None
    if not isinstance(wanted, dict):
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.get("schema"), "strict": True}}


# The answer


def from_chat(chat: Json) -> Json:
    """The message, of a whole chat completion."""
    choice = chat["choices"][0]
    message = choice.get("message") or {}
    content: list[Json] = []
    if thought := _reasoning(message):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := message.get("content") or message.get("refusal"):
        content.append({"type": "text", "text": text})
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        arguments = _arguments(function.get("arguments"))
        content.append({"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments})
    return _head(chat) | {"content": content, **_ending(choice), "usage": _usage(chat)}


def _head(chat: Json) -> Json:
    number = str(chat.get("id") or "").removeprefix("chatcmpl-")
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": chat.get("model") or ""}


def _ending(choice: Json) -> Json:
    """vLLM and SGLang tell which of the stop sequences it was."""
    stopped_by = next(
        (choice[key] for key in ("stop_reason", "matched_stop") if isinstance(choice.get(key), str)), None
    )
    reason = STOP_REASONS.get(choice.get("finish_reason") or "", "stop_sequence" if stopped_by else "end_turn")
    return {"stop_reason": reason, "stop_sequence": stopped_by}


def _usage(chat: Json) -> Json:
    told = usage_in(chat)
    prompt, cached, completion = (
        ((told.num_prompt or 0), (told.num_cached or 0), (told.num_completion or 0)) if told else (0, 0, 0)
    )
    return {
        "input_tokens": max(0, prompt - cached),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": completion,
    }


def _reasoning(message: Json) -> str:
    return message.get("reasoning_content") or message.get("reasoning") or ""


def _arguments(text: object) -> object:
    try:
        return orjson.loads(text or "{}") if isinstance(text, str) else {}
    except orjson.JSONDecodeError:
        return {"arguments": text}  # cut off, or wrong: the client sees what there is


class MessageStream:
    """One stream of chat chunks as Anthropic's events. One block is open at a time, and ends before the next."""

    def __init__(self) -> None:
        self._has_begun = False
        self._index = -1  # of the last block
        self._open: object = None  # what the open block is: "text", "thinking", or the index of a call
        self._ending: Json = {"stop_reason": "end_turn", "stop_sequence": None}
        self._usage = _usage({})

    def feed(self, chunk: Json) -> Iterator[Json]:
        if not self._has_begun:
            self._has_begun = True
            begun: Json = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage}
            yield {"type": "message_start", "message": _head(chunk) | begun}
        if usage_in(chunk) is not None:
            self._usage = _usage(chunk)
        for choice in chunk.get("choices") or []:
            yield from self._delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._ending = _ending(choice)

    def end(self) -> Iterator[Json]:
        yield from self._close()
        yield {"type": "message_delta", "delta": self._ending, "usage": self._usage}
        yield {"type": "message_stop"}

    def _delta(self, delta: Json) -> Iterator[Json]:
        if thought := _reasoning(delta):
            yield from self._switch("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._block_delta({"type": "thinking_delta", "thinking": thought})
        if text := delta.get("content") or delta.get("refusal"):
            yield from self._switch("text", {"type": "text", "text": ""})
            yield self._block_delta({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            begun = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
            yield from self._switch(call.get("index", 0), begun)
            if arguments := function.get("arguments"):
                yield self._block_delta({"type": "input_json_delta", "partial_json": arguments})

    def _switch(self, what: object, block: Json) -> Iterator[Json]:
        if what == self._open:
            return
        yield from self._close()
        self._open, self._index = what, self._index + 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[Json]:
        if self._open == "thinking":
            yield self._block_delta({"type": "signature_delta", "signature": ""})
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = None

    def _block_delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}
