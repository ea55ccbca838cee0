"""An answer in the form of Anthropic's Messages: its events, the whole message, and errors."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from handler.api import sse
from handler.api.anthropic_request import OPEN
from handler.api.common import Answer
from handler.api.stream import Outputs
from handler.api.turn import AnswerEnd, AnswerForm, Turn, TurnPart
from handler.chat.events import Arguments, CallBegun, Content, Event, Reasoning
from handler.engine.sequence import SequenceOutput, SequenceUsage
from handler.errors import ErrorResponse

Json = dict[str, Any]

STOP_REASONS: dict[AnswerEnd, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    503: "overloaded_error",
}


def new_tool_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


class MessageEvents:
    """Writes one answer. One block is open at a time, and is stopped before the next starts.

    `prompt_usage` is asked with the first output. `max_tokens` is the client's limit: an answer that ends before it for
    its length has filled the context. `omits_thinking`: thoughts are in their block's signature alone, which is empty
    otherwise; a client gives it back unread.
    """

    def __init__(
        self,
        id: str,
        model: str,
        form: AnswerForm,
        prompt_usage: Callable[[], SequenceUsage],
        *,
        max_tokens: int | None = None,
        omits_thinking: bool = False,
        new_id: Callable[[], str] = new_tool_id,
    ) -> None:
        self._id = id
        self._model = model
        self._prompt_usage = prompt_usage
        self._max_tokens = max_tokens
        self._hidden: list[str] | None = [] if omits_thinking else None  # thoughts of the open block
        self._new_id = new_id
        self._turn = Turn(form)
        self._has_begun = False
        self._index = -1  # of the last block
        self._open: object = None  # "text", "thinking", or the number of a call

    def events(self, outputs: Outputs) -> str:
        (output,) = outputs.values()
        if self._turn.is_plain and self._open == "text" and output.finish_reason is None:
            return self._text_template.encode(output.text) if output.text else ""
        return "".join(map(sse.encode_named, self.write(output)))

    def end(self) -> str:
        return ""  # the last output's events end in message_stop

    def write(self, output: SequenceOutput) -> Iterator[Json]:
        if not self._has_begun:
            self._has_begun = True
            yield {"type": "message_start", "message": self._empty_message()}
            yield {"type": "ping"}
        part = self._turn.feed(output)
        for event in part.events:
            yield from self._write_event(event)
        if part.end is not None and part.usage is not None:
            yield from self._stop_block()
            yield {"type": "message_delta", "delta": _ending(part, self._max_tokens), "usage": usage(part.usage)}
            yield {"type": "message_stop"}

    def _empty_message(self) -> Json:
        message = {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": []}
        return message | {
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": usage(self._prompt_usage()),
        }

    def _write_event(self, event: Event) -> Iterator[Json]:
        match event:
            case Reasoning(text):
                yield from self._start_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                if self._hidden is None:
                    yield self._delta({"type": "thinking_delta", "thinking": text})
                else:
                    self._hidden.append(text)
                    yield {"type": "ping"}  # a stream that falls silent would be given up
            case Content(text):
                yield from self._start_block("text", {"type": "text", "text": ""})
                yield self._text_delta(text)
            case CallBegun(call, name):
                yield from self._start_block(
                    call, {"type": "tool_use", "id": self._new_id(), "name": name, "input": {}}
                )
            case Arguments(_, text):
                yield self._delta({"type": "input_json_delta", "partial_json": text})

    def _start_block(self, what: object, block: Json) -> Iterator[Json]:
        if what == self._open:
            return
        yield from self._stop_block()
        self._open, self._index = what, self._index + 1
        if what == "text":
            self._text_template = sse.EventTemplate(lambda text: sse.encode_named(self._text_delta(text)))
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _stop_block(self) -> Iterator[Json]:
        if self._open == "thinking":
            signature = OPEN + "".join(self._hidden) if self._hidden is not None else ""
            self._hidden = None if self._hidden is None else []
            yield self._delta({"type": "signature_delta", "signature": signature})
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = None

    def _text_delta(self, text: str) -> Json:
        return self._delta({"type": "text_delta", "text": text})

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def whole_message(events: Iterable[Json]) -> Answer:
    """The message that a stream's events tell: whole answers are made of the same events."""
    message: Json = {}
    arguments: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                index, delta = event["index"], event["delta"]
                if delta["type"] == "input_json_delta":
                    arguments[index] = arguments.get(index, "") + delta["partial_json"]
                    continue
                name = delta["type"].removesuffix("_delta")
                message["content"][index][name] += delta[name]
            case "message_delta":
                message |= {**event["delta"], "usage": event["usage"]}
    for index, text in arguments.items():
        message["content"][index]["input"] = _arguments(text)
    return message


def _arguments(text: str) -> Json:
    """The object that the text is. Of a call that was cut it has what came, as Anthropic's clients read a stream;
    what a model wrote that is no object stands in one, so that the client sees it."""
    if not text.strip():
        return {}
    try:
        arguments = from_json(text, allow_partial=True)
    except ValueError:
        return {"arguments": text}
    return arguments if isinstance(arguments, dict) else {"arguments": text}


def error_response(response: ErrorResponse) -> ErrorResponse:
    """An error of OpenAI's form in Anthropic's."""
    kind = ERROR_TYPES.get(response.status, "api_error")
    error = {"type": kind, "message": response.body["error"]["message"]}
    return ErrorResponse(
        response.status, {"type": "error", "error": error, "request_id": f"req_{secrets.token_hex(12)}"}
    )


def encode_error(response: ErrorResponse) -> str:
    """The event that ends a stream."""
    return sse.encode_named(error_response(response).body)


def _ending(part: TurnPart, max_tokens: int | None) -> Json:
    assert part.end is not None
    assert part.usage is not None
    reason, sequence = STOP_REASONS[part.end], None
    if part.end == "stop" and isinstance(part.ended_by, str):
        reason, sequence = "stop_sequence", part.ended_by
    if part.end == "length" and part.ended_by is None and part.usage.num_completion_tokens != max_tokens:
        reason = "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None}


def usage(counts: SequenceUsage) -> Json:
    """Anthropic's input tokens are those that were not in the cache."""
    return {
        "input_tokens": counts.num_prompt_tokens - counts.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.num_cached_tokens,
        "output_tokens": counts.num_completion_tokens,
    }
