"""An answer in the form of OpenAI's Responses: its events, and the whole response."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

from handler.api import sse
from handler.api.chat_chunks import joined, new_call_id, tokens
from handler.api.common import Answer
from handler.api.response_request import ENCRYPTED, OPEN, includes
from handler.api.stream import Outputs
from handler.api.turn import AnswerForm, Turn, TurnPart
from handler.chat.events import Arguments, CallBegun, Content, Event, Reasoning
from handler.engine.sequence import SequenceOutput, SequenceUsage
from handler.errors import ErrorResponse

Json = dict[str, Any]

# What a response repeats of its request, and what it says where nothing was sent.
ECHOED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
# Nothing is stored, and there is one tier.
CONSTANT: Json = {"background": False, "previous_response_id": None, "service_tier": "default", "store": False}


class ResponseEvents:
    """Writes one answer. Items follow each other: one is done before the next is added.

    `request` is the client's body, checked. Events are numbered from 0. What an event has of the response is as it is
    at that moment, so events are written before the next is asked for.
    """

    def __init__(self, request: Json, model: str, form: AnswerForm) -> None:
        self._turn = Turn(form)
        self._num_events = 0
        self._has_begun = False
        self._open: object = None  # what the last item is: Reasoning, Content, or the number of a call
        self._pieces: list[str] = []  # of the text, the reasoning or the arguments of the open item
        self._gives_back_reasoning = includes(request, ENCRYPTED)
        self._response: Json = {
            "id": f"resp_{secrets.token_hex(24)}",
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "model": model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **{name: nothing if request.get(name) is None else request[name] for name, nothing in ECHOED.items()},
            **CONSTANT,
        }

    def events(self, outputs: Outputs) -> str:
        (output,) = outputs.values()
        is_plain = self._turn.is_plain and output.finish_reason is None and not output.logprobs
        if is_plain and self._open is Content:
            return self._plain_event(output.text) if output.text else ""
        return "".join(map(sse.encode_named, self.write(output)))

    def end(self) -> str:
        return ""  # the last output's events end in the whole response

    def whole(self, output: SequenceOutput) -> Answer:
        """The response of a finished sequence, made of the same events."""
        for _ in self.write(output):
            pass
        return self._response

    def failure(self, response: ErrorResponse) -> str:
        """The event that ends a stream within which the answer failed."""
        error = response.body["error"]
        self._gather()
        self._response |= {"status": "failed", "error": {"code": "server_error", "message": error["message"]}}
        return sse.encode_named(self._event("response.failed", response=self._response))

    def write(self, output: SequenceOutput) -> Iterator[Json]:
        if not self._has_begun:
            self._has_begun = True
            yield self._event("response.created", response=self._response)
            yield self._event("response.in_progress", response=self._response)
        part = self._turn.feed(output)
        logprobs = [entry.model_dump() for entry in tokens(part.logprobs)]
        for event in joined(part.events):
            if isinstance(event, Content):
                yield from self._write_text(event.text, logprobs)
                logprobs = []
            else:
                yield from self._write_event(event)
        if logprobs:
            yield from self._write_text("", logprobs)
        if part.end is not None and part.usage is not None:
            yield from self._finish(part, part.usage)

    def _write_event(self, event: Event) -> Iterator[Json]:
        match event:
            case Reasoning(text):
                if self._open is not Reasoning:
                    yield from self._begin(
                        Reasoning, {"type": "reasoning", "id": _id("rs"), "summary": [], "content": []}
                    )
                    yield from self._begin_part({"type": "reasoning_text", "text": ""})
                self._pieces.append(text)
                yield self._event("response.reasoning_text.delta", **self._place, content_index=0, delta=text)
            case CallBegun(call, name):
                begun = {"type": "function_call", "id": _id("fc"), "call_id": new_call_id(call), "name": name}
                yield from self._begin(call, begun | {"arguments": ""})
            case Arguments(_, text):
                self._pieces.append(text)
                yield self._event("response.function_call_arguments.delta", **self._place, delta=text)

    def _write_text(self, text: str, logprobs: list[Json]) -> Iterator[Json]:
        if self._open is not Content:
            item = {"type": "message", "id": _id("msg"), "role": "assistant", "content": []}
            yield from self._begin(Content, item)
            yield from self._begin_part({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
            self._text_template = sse.NumberedTemplate(self._make_text_event)
        self._pieces.append(text)
        self._item["content"][0]["logprobs"] += logprobs
        yield self._event("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=logprobs)

    def _plain_event(self, text: str) -> str:
        self._pieces.append(text)
        self._num_events += 1
        return self._text_template.encode(self._num_events - 1, text)

    def _make_text_event(self, number: str, text: str) -> str:
        told = {**self._place, "content_index": 0, "delta": text, "logprobs": []}
        return sse.encode_named({"type": "response.output_text.delta", "sequence_number": number, **told})

    def _finish(self, part: TurnPart, usage: SequenceUsage) -> Iterator[Json]:
        if not self._response["output"]:
            yield from self._write_text("", [])  # an answer is a message, if an empty one
        status = "incomplete" if part.end == "length" else "completed"
        yield from self._close(status)
        self._response |= {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": _usage(usage),
        }
        yield self._event(f"response.{status}", response=self._response)

    @property
    def _item(self) -> Json:
        """The last one."""
        item: Json = self._response["output"][-1]
        return item

    @property
    def _place(self) -> Json:
        return {"item_id": self._item["id"], "output_index": len(self._response["output"]) - 1}

    def _begin(self, what: object, item: Json) -> Iterator[Json]:
        yield from self._close("completed")
        self._open = what
        self._response["output"].append({**item, "status": "in_progress"})
        yield self._event("response.output_item.added", output_index=self._place["output_index"], item=self._item)

    def _begin_part(self, part: Json) -> Iterator[Json]:
        self._item["content"].append(part)
        yield self._event("response.content_part.added", **self._place, content_index=0, part=part)

    def _close(self, status: str) -> Iterator[Json]:
        """The open item is over, and was cut where the status says so."""
        if self._open is None:
            return
        self._gather()
        if "arguments" in self._item:
            arguments, name = self._item["arguments"], self._item["name"]
            yield self._event("response.function_call_arguments.done", **self._place, name=name, arguments=arguments)
        else:
            yield from self._close_part(self._item["content"][0])
        self._item["status"] = status
        if self._open is Reasoning and self._gives_back_reasoning:
            self._item["encrypted_content"] = OPEN + self._item["content"][0]["text"]
        yield self._event("response.output_item.done", output_index=self._place["output_index"], item=self._item)
        self._open = None

    def _gather(self) -> None:
        """Put what was written of the open item into it."""
        if self._open is None:
            return
        place, name = (self._item, "arguments") if "arguments" in self._item else (self._item["content"][0], "text")
        place[name] += "".join(self._pieces)
        self._pieces.clear()

    def _close_part(self, part: Json) -> Iterator[Json]:
        told = {"text": part["text"]} | ({"logprobs": part["logprobs"]} if "logprobs" in part else {})
        yield self._event(f"response.{part['type']}.done", **self._place, content_index=0, **told)
        yield self._event("response.content_part.done", **self._place, content_index=0, part=part)

    def _event(self, kind: str, **fields: Any) -> Json:
        self._num_events += 1
        return {"type": kind, "sequence_number": self._num_events - 1, **fields}


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(24)}"


def _usage(counts: SequenceUsage) -> Json:
    return {
        "input_tokens": counts.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.num_reasoning_tokens},
        "total_tokens": counts.num_prompt_tokens + counts.num_completion_tokens,
    }
