"""OpenAI's Responses, without a store, spoken to a target that has chat completions only: request, answer, stream.

Every field of the request becomes chat's, is the same there, or is refused by name. Tools that OpenAI's own servers
would run are left out, as clients send them with every request; nothing is stored, and the answer says so.
"""

import time
import uuid
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from local_gateway.errors import InvalidRequestError
from local_gateway.wire.reported_usage import usage_in

Json = dict[str, Any]

REFUSED = ("previous_response_id", "conversation", "background", "prompt", "max_tool_calls")  # they need a store
# Taken over under chat's name, or of no effect.
READ = {
    *REFUSED,
    *("instructions", "input", "tools", "tool_choice", "text", "reasoning", "max_output_tokens", "top_logprobs"),
    *("include", "store", "truncation", "stream_options"),
}
ECHOED = ("tools", "tool_choice", "parallel_tool_calls", "temperature", "top_p", "text", "instructions", "metadata")
UNUSUAL = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}  # what the types want, where nothing is set


def to_chat(body: Json) -> Json:
    """The chat request. Raises InvalidRequestError for what chat completions cannot say."""
    if refused := next((name for name in REFUSED if body.get(name)), ""):
        raise InvalidRequestError(f"`{refused}` cannot be used with this model.", param=refused)
    chat = {name: value for name, value in body.items() if name not in READ}
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    chat["messages"] = [*system, *_messages(body.get("input", ""))]
    tools = [
        _tool(tool) for tool in body.get("tools") or [] if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    if (num_logprobs := body.get("top_logprobs")) is not None:
        chat |= {"logprobs": True, "top_logprobs": num_logprobs}
    optional = {
        "tools": tools,
        "tool_choice": _tool_choice(body.get("tool_choice")) if tools else None,
        "max_tokens": body.get("max_output_tokens"),
        "reasoning_effort": (body.get("reasoning") or {}).get("effort"),
        "response_format": _format(body.get("text")),
    }
    return chat | {name: value for name, value in optional.items() if value not in (None, [])}


def _messages(given: object) -> list[Json]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidRequestError("`input` must be text or a list of items.", param="input")
    messages: list[Json] = []
    for item in given:
        if not isinstance(item, dict):
            raise InvalidRequestError("Each item of `input` must be an object.", param="input")
        _add(messages, item)
    return messages


def _add(messages: list[Json], item: Json) -> None:
    """Reasoning, text and calls that follow each other are one turn of the assistant."""
    match item.get("type", "message"):
        case "message" if item.get("role") == "assistant":
            turn = _turn(messages)
            turn["content"] = (turn.get("content") or "") + _text(item.get("content"))
        case "message":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"))})
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            turn = _turn(messages)
            turn["tool_calls"] = [*turn.get("tool_calls", []), call]
        case "function_call_output":
            output = item.get("output", "")
            text = output if isinstance(output, str) else _text(output)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        case "reasoning":
            if thought := _text(item.get("content")) or _text(item.get("summary")):
                _turn(messages)["reasoning_content"] = thought
        case kind:
            raise InvalidRequestError(
                f"An item of type {str(kind)[:40]!r} cannot be used with this model.", param="input"
            )


def _turn(messages: list[Json]) -> Json:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts if isinstance(part, dict))


def _content(content: object) -> object:
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _part(part: Json) -> Json:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": str(part.get("text", ""))}
        case "input_image" if isinstance(part.get("image_url"), str):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise InvalidRequestError(
        f"A part of type {str(part.get('type'))[:40]!r} cannot be used with this model.", param="input"
    )


def _tool(tool: Json) -> Json:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _tool_choice(choice: object) -> object:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if isinstance(choice, dict):
        raise InvalidRequestError("This `tool_choice` cannot be used with this model.", param="tool_choice")
    return choice


def _format(text: object) -> Json | None:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {name: value for name, value in wanted.items() if name != "type"}}


class ResponseBuilder:
    """One answer, from the chunks of a chat stream or from a whole chat: Responses' events, and its object.

    Items are built one after the other, and an item is done before the next is added. `request` is the client's body,
    of which the answer repeats what Responses repeats.
    """

    def __init__(self, request: Json) -> None:
        self._number = 0  # of the next event
        self._open: object = None  # what the last item is: "message", "reasoning", or the index of a call
        echoed = {name: request[name] for name in ECHOED if request.get(name) is not None}
        self._response: Json = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": request.get("model"),
            "output": [],
            "error": None,
            "incomplete_details": None,
            "store": False,
            **UNUSUAL,
            **echoed,
        }

    def whole(self, chat: Json) -> Json:
        """The response, of a whole chat completion."""
        choice = chat["choices"][0]
        message = choice.get("message") or {}
        calls = [{"index": at, **call} for at, call in enumerate(message.get("tool_calls") or [])]
        once = {"delta": {**message, "tool_calls": calls}, "finish_reason": choice.get("finish_reason")}
        for _ in (*self.feed({**chat, "choices": [once]}), *self.end()):
            pass
        return self._response

    def feed(self, chunk: Json) -> Iterator[Json]:
        if not self._number:
            self._response["model"] = chunk.get("model") or self._response["model"]
            yield self._event("response.created", response=deepcopy(self._response))
            yield self._event("response.in_progress", response=deepcopy(self._response))
        if (told := usage_in(chunk)) is not None:
            prompt, cached, completion = (count or 0 for count in told)
            self._response["usage"] = {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
                "output_tokens": completion,
                "output_tokens_details": {"reasoning_tokens": _reasoning_tokens(chunk)},
                "total_tokens": prompt + completion,
            }
        for choice in chunk.get("choices") or []:
            yield from self._delta(choice.get("delta") or {})
            if choice.get("finish_reason") in ("length", "content_filter"):
                reason = "max_output_tokens" if choice["finish_reason"] == "length" else "content_filter"
                self._response["incomplete_details"] = {"reason": reason}

    def end(self) -> Iterator[Json]:
        yield from self._close()
        status = "incomplete" if self._response["incomplete_details"] else "completed"
        self._response["status"] = status
        yield self._event(f"response.{status}", response=self._response)

    def _delta(self, delta: Json) -> Iterator[Json]:
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            yield from self._switch("reasoning", {"type": "reasoning", "id": _id("rs"), "summary": [], "content": []})
            yield from self._grow_part("reasoning_text", "text", thought)
        for field, kind in (("content", "output_text"), ("refusal", "refusal")):
            if text := delta.get(field):
                item = {
                    "type": "message",
                    "id": _id("msg"),
                    "role": "assistant",
                    "status": "in_progress",
                    "content": [],
                }
                yield from self._switch("message", item)
                yield from self._grow_part(kind, "text" if kind == "output_text" else "refusal", text)
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            item = {"type": "function_call", "id": _id("fc"), "call_id": call.get("id"), "status": "in_progress"}
            yield from self._switch(call.get("index", 0), {**item, "name": function.get("name"), "arguments": ""})
            if arguments := function.get("arguments"):
                self._item["arguments"] += arguments
                yield self._event("response.function_call_arguments.delta", **self._place, delta=arguments)

    @property
    def _item(self) -> Json:
        item: Json = self._response["output"][-1]
        return item

    @property
    def _place(self) -> Json:
        return {"item_id": self._item["id"], "output_index": len(self._response["output"]) - 1}

    def _switch(self, what: object, item: Json) -> Iterator[Json]:
        if what == self._open:
            return
        yield from self._close()
        self._open = what
        self._response["output"].append(item)
        yield self._event("response.output_item.added", output_index=self._place["output_index"], item=deepcopy(item))

    def _grow_part(self, kind: str, field: str, text: str) -> Iterator[Json]:
        parts = self._item["content"]
        if not parts or parts[-1]["type"] != kind:
            yield from self._close_part()
            parts.append({"type": kind, field: "", **({"annotations": []} if kind == "output_text" else {})})
            yield self._event("response.content_part.added", **self._part_place, part={**parts[-1]})
        parts[-1][field] += text
        yield self._event(f"response.{kind}.delta", **self._part_place, delta=text, **_logprobs(kind))

    @property
    def _part_place(self) -> Json:
        return {**self._place, "content_index": len(self._item["content"]) - 1}

    def _close_part(self) -> Iterator[Json]:
        if not self._item["content"]:
            return
        part = self._item["content"][-1]
        field = "refusal" if part["type"] == "refusal" else "text"
        told = {field: part[field], **_logprobs(part["type"])}
        yield self._event(f"response.{part['type']}.done", **self._part_place, **told)
        yield self._event("response.content_part.done", **self._part_place, part=part)

    def _close(self) -> Iterator[Json]:
        if self._open is None:
            return
        if "arguments" in self._item:
            told = self._item["arguments"]
            yield self._event("response.function_call_arguments.done", **self._place, arguments=told)
        else:
            yield from self._close_part()
        if "status" in self._item:
            self._item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=self._place["output_index"], item=self._item)
        self._open = None

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}


def _logprobs(kind: str) -> Json:
    return {"logprobs": []} if kind == "output_text" else {}


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _reasoning_tokens(chunk: Json) -> int:
    details = (chunk.get("usage") or {}).get("completion_tokens_details") or {}
    count = details.get("reasoning_tokens")
    return count if isinstance(count, int) else 0
