"""Whole answers, kept for a while in memory.

Which requests have the same answer is for others to say. Nothing is kept that broke off, failed, or came from an
upstream that says less than that it is complete.
"""

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from typing import NamedTuple

from local_gateway.config.settings import CacheSettings
from local_gateway.edge.client_request import JSON_TYPE
from local_gateway.wire import stream_normalizer
from local_gateway.wire.answer import Answer, Origin

ENTRY_BYTES = 1000  # about what an entry needs beside its body
CHAT = "/chat/completions"

# In a text the quotes are behind backslashes, so this is only ever the name of a field.
ERROR = re.compile(rb'"error"\s*:\s*(?!\s|null\b)')
# The last event of the Responses API, and of the others.
LAST_EVENT = re.compile(rb'\n?data: ?(?:\[DONE\]|\{"type"\s*:\s*"response\.completed"[^\n]*)\s*\Z')


class StoredAnswer(NamedTuple):
    body: bytes
    content_type: str
    target: str  # who once gave it


class ResponseCache:
    """The answers of one model, the least recently used going first. `clock` gives seconds, and never goes back."""

    def __init__(self, settings: CacheSettings, clock: Callable[[], float]) -> None:
        self._ttl = settings.ttl
        self._max_bytes = settings.max_bytes
        self._clock = clock
        self._entries: OrderedDict[Hashable, tuple[float, StoredAnswer]] = OrderedDict()  # with their ends
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Hashable) -> Answer | None:
        """An answer that nobody has to be asked for."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, stored = entry
        if self._clock() >= until:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return _answer_from(stored)

    def keep(self, key: Hashable, stored: StoredAnswer) -> None:
        """For its time, if there is room for it at all."""
        self._remove(key)
        size = _size(stored)
        if size > self._max_bytes:
            return
        self._entries[key] = (self._clock() + self._ttl, stored)
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    async def record(self, key: Hashable, path: str, answer: Answer) -> Answer:
        """The same answer, which is kept when it has come to its end and is whole. Takes it over, also on errors."""

        def keep(body: bytes) -> None:
            if is_whole(body, is_events=answer.is_events):
                kept = _compact(body) if answer.is_events and path == CHAT else body
                self.keep(key, StoredAnswer(kept, answer.headers["content-type"], answer.origin.target))

        if answer.status == 200 and answer.is_events:
            answer.body = _Recording(answer.body, self._max_bytes, keep)
        elif answer.status == 200 and answer.headers.get("content-type", "").startswith(JSON_TYPE):
            keep(await _read_ahead(answer))
        return answer

    def _remove(self, key: Hashable) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.num_bytes -= _size(entry[1])


def is_whole(body: bytes, *, is_events: bool) -> bool:
    """Whether an answer with status 200 is one: some targets report an error so, or end a stream early."""
    if ERROR.search(body):
        return False
    return not is_events or LAST_EVENT.search(body, max(0, body.rfind(b"\ndata:"))) is not None


class _Recording:
    """A body on its way, remembered up to a length. Only one that is read to its end is given to `keep`."""

    def __init__(self, body: AsyncIterator[bytes], max_bytes: int, keep: Callable[[bytes], None]) -> None:
        self._body = body
        self._max_bytes = max_bytes
        self._keep = keep
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def __aiter__(self) -> "_Recording":
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._body)
        except StopAsyncIteration:
            if self._num_bytes <= self._max_bytes:
                self._keep(b"".join(self._pieces))
            raise
        self._num_bytes += len(piece)
        if self._num_bytes <= self._max_bytes:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        return piece


class _Replay:
    """A body that is there."""

    def __init__(self, body: bytes) -> None:
        self._pieces = [body]

    def __aiter__(self) -> "_Replay":
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


async def _read_ahead(answer: Answer) -> bytes:
    """A body that is no stream: who reads it need not come to its end."""
    try:
        body = b"".join([piece async for piece in answer.body])
    except BaseException:
        await answer.aclose()
        raise
    answer.body = _Replay(body)
    return body


def _answer_from(stored: StoredAnswer) -> Answer:
    origin = Origin(stored.target, num_attempts=0, sharing="hit")
    return Answer(200, {"content-type": stored.content_type}, _Replay(stored.body), origin, _nothing)


async def _nothing() -> None:
    """There is nothing to let go of."""


def _compact(events: bytes) -> bytes:
    """All text in one event: what comes in one read with the end of a stream, chatbot-ui shows only the first of."""
    normalizer = stream_normalizer.StreamNormalizer()
    return normalizer.feed(events) + normalizer.end()


def _size(stored: StoredAnswer) -> int:
    return len(stored.body) + ENTRY_BYTES
