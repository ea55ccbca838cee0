"""What llama.cpp-like servers stream as chat completions, repaired for clients that take OpenAI's ways for granted.

There are clients that print "null" for a `content` of null, that lose the text beside a `finish_reason`, that read on
for ever without [DONE], and that see only the first of several text events which arrive together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from local_gateway.wire import sse

Json = dict[str, Any]

PATHS = ("/chat/completions", "/completions")  # whose streams are repaired
HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")  # of a chunk that we make
TEXT_KEYS = {"role", "content"}


@dataclass(slots=True)
class _Event:
    """`raw` as it came; empty if `chunk` must be written anew. Without a chunk it is passed on as it is."""

    raw: bytes
    chunk: Json | None = None

    @property
    def choices(self) -> list[Json]:
        return self.chunk["choices"] if self.chunk else []

    def to_bytes(self) -> bytes:
        return self.raw or sse.encode(self.chunk)


class StreamNormalizer:
    """One stream of chat completion chunks. Whole events go in and come out; what is in order stays as it is.

    In a block that is given in one piece, neighbouring texts of a choice become one event.
    """

    def __init__(self) -> None:
        self._head: Json = {}  # of the last chunk
        self._last_text = b""  # an event after that, which was not parsed
        self._unfinished: dict[int, str] = {}  # choices that have begun, and the finish_reason to assume
        self._finished: set[int] = set()
        self._held: list[_Event] = []  # token counts, before which the last chunks of choices may be missing
        self._is_over = False

    def feed(self, block: bytes) -> bytes:
        """Whole events, or the last one without its empty line."""
        return self.repair(sse.events_in(block))

    def repair(self, events: Iterable[sse.Event]) -> bytes:
        """The same, of events that may have been parsed already."""
        done: list[_Event] = []
        for given in events:
            if self._is_over:
                break
            for event in self._repair(given):
                if not (done and _merge(done[-1], event)):
                    done.append(event)
        return b"".join(event.to_bytes() for event in done)

    def passes(self, text: bytes) -> bool:
        """Whether a block of text events of the first choice is one event that is in order.

        If so it has been seen, without being parsed. If not, or if that is not certain, `repair` looks closer.
        """
        is_in_order = (
            text.find(b"\n") == len(text) - 2
            and (b'"delta":{' in text or b'"delta": {' in text)
            and (b'"content":"' in text or b'"content": "' in text)
            and b'"content":""' not in text
            and b'"content": ""' not in text
            and b'"role"' not in text
            and b'"tool_calls"' not in text
            and not self._is_over
        )
        if is_in_order:
            self._last_text = text
            if 0 not in self._finished:
                self._unfinished.setdefault(0, "stop")
        return is_in_order

    def end(self) -> bytes:
        """What is missing when the target has ended its stream regularly."""
        if self._is_over:
            return b""
        self._is_over = True
        return b"".join(event.to_bytes() for event in [*self._finish(), *self._take_held()]) + sse.DONE

    def rest(self) -> bytes:
        """What was held back, when the stream was broken off: without a reason to finish that nobody gave."""
        return b"".join(event.to_bytes() for event in self._take_held())

    def _take_held(self) -> list[_Event]:
        held, self._held = self._held, []
        return held

    def _repair(self, given: sse.Event) -> list[_Event]:
        raw = _with_end(given.raw)
        if given.is_done:
            self._is_over = True
            return [*self._finish(), *self._take_held(), _Event(raw)]
        chunk = _chunk_of(given)
        if chunk is None:
            return [*self._take_held(), _Event(raw)]
        if chunk.get("error"):
            self._unfinished.clear()  # it ends without a reason to finish
            return [*self._take_held(), _Event(raw)]
        if not chunk["choices"]:
            return self._repair_usage(raw) if chunk.get("usage") else []
        event = _Event(raw, chunk)
        _repair_deltas(event)
        self._watch(event)
        return [*self._take_held(), *_split_finish(event)]

    def _repair_usage(self, raw: bytes) -> list[_Event]:
        """Usage comes after the last choice; whether one has ended that did not say so is known with the stream's end.

        Azure's verdict on the prompt, without usage, comes before the first, where clients look for a choice.
        """
        self._held.append(_Event(raw))
        return [] if self._unfinished else self._take_held()

    def _watch(self, event: _Event) -> None:
        """Remember which choices have begun, and which have ended."""
        assert event.chunk is not None
        self._head, self._last_text = event.chunk, b""
        for choice in event.choices:
            index, delta = choice.get("index", 0), choice["delta"]
            if choice.get("finish_reason"):
                self._finished.add(index)
                self._unfinished.pop(index, None)
            elif index not in self._finished and any(value for key, value in delta.items() if key != "role"):
                known = self._unfinished.get(index, "stop")
                self._unfinished[index] = "tool_calls" if delta.get("tool_calls") else known

    def _finish(self) -> list[_Event]:
        """The last chunks of choices that have none."""
        if self._unfinished and self._last_text and isinstance(chunk := sse.Event(self._last_text).chunk, dict):
            self._head = chunk
        head = {key: self._head[key] for key in HEAD if key in self._head}
        chunks = [
            head | {"choices": [{"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}]}
            for index, reason in self._unfinished.items()
        ]
        self._finished |= self._unfinished.keys()
        self._unfinished.clear()
        return [_Event(b"", chunk) for chunk in chunks]


def _with_end(raw: bytes) -> bytes:
    """llama.cpp has ended its last event without an empty line."""
    if raw.endswith((b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")):
        return raw
    return raw.rstrip(b"\r\n") + b"\n\n"


def _chunk_of(event: sse.Event) -> Json | None:
    """A chunk of which every choice has a delta, or an error. None for all that is to be left alone."""
    lines = event.raw.strip()
    if b"\n" in lines or b"\r" in lines:
        return None  # it has a name or an id, which must not get lost
    chunk = event.chunk
    if not isinstance(chunk, dict):
        return None
    choices = chunk.get("choices")
    is_chat = isinstance(choices, list) and all(map(_is_chat, choices))
    return chunk if is_chat or chunk.get("error") else None


def _is_chat(choice: object) -> bool:
    if not isinstance(choice, dict) or "delta" not in choice or not isinstance(choice.get("index", 0), int):
        return False
    return choice["delta"] is None or isinstance(choice["delta"], dict)


def _repair_deltas(event: _Event) -> None:
    """No delta is null, nor is its content; a reason to finish is null or says something."""
    for choice in event.choices:
        if choice.get("finish_reason") == "":
            choice["finish_reason"], event.raw = None, b""
        delta = choice["delta"]
        if delta is None:
            choice["delta"], event.raw = {}, b""
        elif delta.get("content", "") is None:
            event.raw = b""
            if "role" in delta:
                delta["content"] = ""
            else:
                del delta["content"]


def _split_finish(event: _Event) -> list[_Event]:
    """Text beside a reason to finish goes before it, in a chunk of its own."""
    assert event.chunk is not None
    texts: list[Json] = []
    for choice in event.choices:
        delta = choice["delta"]
        if not choice.get("finish_reason") or not delta.get("content"):
            continue
        event.raw = b""
        text = {key: delta.pop(key) for key in ("role", "content") if key in delta}
        texts.append({"index": choice.get("index", 0), "delta": text, "finish_reason": None})
        if choice.get("logprobs"):
            texts[-1]["logprobs"], choice["logprobs"] = choice["logprobs"], None
    if not texts:
        return [event]
    head = {key: event.chunk[key] for key in HEAD if key in event.chunk}
    return [_Event(b"", head | {"choices": texts}), event]


def _merge(first: _Event, second: _Event) -> bool:
    """Put the second's text into the first, if both are nothing but text of the same choice. Else nothing changes."""
    if not (_is_text(first) and _is_text(second)):
        return False
    assert first.chunk is not None
    assert second.chunk is not None
    (one,), (two,) = first.choices, second.choices
    is_one_voice = (
        one.get("index", 0) == two.get("index", 0)
        and _agree(first.chunk, second.chunk, {"choices", "created"})
        and _agree(one, two, {"delta", "logprobs"})
        and _agree(one["delta"], two["delta"], {"content"})
    )
    if not (is_one_voice and _merge_logprobs(one, two)):
        return False
    text = (one["delta"].get("content") or "") + (two["delta"].get("content") or "")
    one["delta"] = {**two["delta"], **one["delta"], "content": text}
    first.chunk = {**second.chunk, **first.chunk, "choices": [{**two, **one}]}
    first.raw = b""
    return True


def _is_text(event: _Event) -> bool:
    if event.chunk is None or len(event.choices) != 1 or event.chunk.get("usage"):
        return False
    choice = event.choices[0]
    delta = choice["delta"]
    return choice.get("finish_reason") is None and bool(delta) and delta.keys() <= TEXT_KEYS


def _agree(one: Json, two: Json, others: set[str]) -> bool:
    """Whether no field says two things, apart from these."""
    return all(one[key] == two[key] for key in one.keys() & two.keys() - others)


def _merge_logprobs(one: Json, two: Json) -> bool:
    ours, theirs = one.get("logprobs"), two.get("logprobs")
    if not theirs:
        return True
    if not ours:
        one["logprobs"] = theirs
        return True
    if not (isinstance(ours, dict) and isinstance(theirs, dict) and _agree(ours, theirs, {"content"})):
        return False
    content = [*(ours.get("content") or []), *(theirs.get("content") or [])]
    one["logprobs"] = {**theirs, **ours, "content": content}
    return True
