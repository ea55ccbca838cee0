"""The outputs of a streaming job → server-sent events, whichever worker wrote them. Pure.

Workers yield text that is cut anywhere (worker-vllm), one event a text but without its end (worker-sglang, Ollama's
last), batches of events, chunks as objects, or lists of those.
"""

import re
from collections.abc import Iterator

import orjson

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire.sse import Event, EventSplitter, encode_named, events_in

FIELDS = ("data:", "event:", "id:", "retry:", ":")  # with which an event begins
FIELD_LINE = re.compile(rb"(?:^|[\r\n])(?:event|id|retry)?:[^\r\n]*$")  # the last line, which says nothing itself
TYPED = ("response.", "message_", "content_block_", "ping", "error")  # types that stand in an `event:` line too


def flattened(outputs: list[object]) -> list[object]:
    """Without the lists that some workers yield for each batch, nor lists in them."""
    flat: list[object] = []
    for output in outputs:
        if isinstance(output, list):
            flat += flattened(output)
        else:
            flat.append(output)
    return flat


def begins_stream(output: object) -> bool:
    """Whether a job's first output is the beginning of a stream, and not a whole answer."""
    if isinstance(output, str):
        objects = _objects_in(output)
        return output.lstrip("\ufeff \r\n").startswith(FIELDS) or (bool(objects) and all(map(_is_chunk, objects)))
    return isinstance(output, dict) and _is_chunk(output)


def _objects_in(text: str) -> list[dict[str, object]]:
    """Of text with an object a line; [] of other text."""
    objects: list[dict[str, object]] = []
    if not text.lstrip().startswith("{"):
        return objects
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            parsed = orjson.loads(line)
        except orjson.JSONDecodeError:
            return []
        if not isinstance(parsed, dict):
            return []
        objects.append(parsed)
    return objects


def _is_chunk(output: dict[str, object]) -> bool:
    if output.get("object") == "chat.completion.chunk":
        return True
    choices = output.get("choices")
    if isinstance(choices, list) and (choices or "usage" in output):
        return all(isinstance(choice, dict) and _is_part(choice) for choice in choices)
    kind = output.get("type")
    return isinstance(kind, str) and kind.startswith(TYPED[:3])


def _is_part(choice: dict[str, object]) -> bool:
    """Of a chat's chunk; or of a completion's, which looks like a whole one but that it has not ended."""
    return "delta" in choice or ("text" in choice and not choice.get("finish_reason"))


class JobEvents:
    """One job's stream. An event comes out as soon as it is whole, even if its empty line has not come."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._was_ended = False  # by us: the line ends that may still come say nothing
        self.rest = b""  # the beginning of an event

    def feed(self, outputs: list[object]) -> Iterator[Event]:
        """The events that are whole now. Raises AnswerBrokenError where the rest of one is missing."""
        for output in flattened(outputs):
            if isinstance(output, str):
                yield from self._feed_text(output)
                continue
            self._refuse_rest()
            yield _event_of(output)

    def _feed_text(self, text: str) -> Iterator[Event]:
        if self._was_ended:
            text = text.lstrip("\r\n")
        if not text:
            return
        if not self.rest and (objects := _objects_in(text)):
            yield from map(_event_of, objects)
            return
        self._was_ended = False
        if FIELD_LINE.search(self.rest) and text.startswith(FIELDS):
            text = "\n" + text  # a worker that yields lines without their ends
        if self.rest and text.startswith("data: {") and _is_whole(own := events_in(text.encode())[0]):
            yield own  # for the caller to see of which run it is
            self._refuse_rest()
        block = self._splitter.feed(text.encode())
        yield from events_in(block)
        self.rest = self._splitter.rest()
        text_of_rest = self.rest.rstrip()
        if text_of_rest.endswith((b"}", b"[DONE]")) and _is_whole(last := Event(text_of_rest + b"\n\n")):
            self._splitter, self.rest, self._was_ended = EventSplitter(), b"", True
            yield last

    def _refuse_rest(self) -> None:
        if self.rest:
            raise AnswerBrokenError("A part of an event is missing in what the worker put out.")


def _is_whole(event: Event) -> bool:
    return isinstance(event.chunk, dict) or event.is_done


def _event_of(output: object) -> Event:
    kind = output.get("type") if isinstance(output, dict) else None
    if isinstance(output, dict) and isinstance(kind, str) and kind.startswith(TYPED):
        return Event(encode_named(output))
    return Event.of(output)
