"""Whole answers, kept for a while in memory.

Which requests have the same answer is the caller's to say. Nothing is kept that broke off, failed, or whose end the
target did not mark.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from local_gateway.config.settings import CacheSettings
from local_gateway.edge.client_request import JSON_TYPE
from local_gateway.wire import stream_normalizer
from local_gateway.wire.answer import Answer, AnswerBody, Origin
from local_gateway.wire.call_ledger import ExecutionStats

ENTRY_BYTES = 1000  # about what an entry needs beside its body
CHAT = "/chat/completions"

# In a text the quotes are behind backslashes, so this is only ever the name of a field.
ERROR = re.compile(rb'"error"\s*:\s*(?!\s|null\b)')
# The last event of the Responses API, and of the others.
LAST_EVENT = re.compile(rb'\n?data: ?(?:\[DONE\]|\{"type"\s*:\s*"response\.completed"[^\n]*)\s*\Z')


class StoredAnswer(NamedTuple):
    body: bytes
    content_type: str
    target: str  # that once gave it


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
        """The kept answer, for which no target is asked; None if there is none."""
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
        """Keep it until its time is over, unless it alone is larger than the cache."""
        self._remove(key)
        size = _size(stored)
        if size > self._max_bytes:
            return
        self._entries[key] = (self._clock() + self._ttl, stored)
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    async def record(self, key: Hashable, path: str, answer: Answer) -> Answer:
        """The same answer, which is kept when it has come to its end and is whole. Closes it on errors."""
        if answer.status == 200 and answer.is_events:
            answer.body = _Recording(answer.body, self, key, path, _blank(answer))
        elif answer.status == 200 and answer.headers.get("content-type", "").startswith(JSON_TYPE):
            body = await _read_ahead(answer)
            if is_whole(body, is_events=False):
                self.keep(key, _blank(answer)._replace(body=body))
        return answer

    def keep_stream(self, key: Hashable, path: str, stored: StoredAnswer) -> None:
        """Keep a stream that was read to its end, if that end is marked."""
        if is_whole(stored.body, is_events=True):
            self.keep(key, stored._replace(body=_compact(stored.body)) if path == CHAT else stored)

    @property
    def max_bytes(self) -> int:
        return self._max_bytes

    def _remove(self, key: Hashable) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.num_bytes -= _size(entry[1])


def is_whole(body: bytes, *, is_events: bool) -> bool:
    """Whether an answer with status 200 is one: some targets report an error so, or end a stream early."""
    if ERROR.search(body):
        return False
    return not is_events or LAST_EVENT.search(body, max(0, body.rfind(b"\ndata:"))) is not None


class _Recording:
    """The body of a stream on its way, remembered up to the cache's size, and given to the cache at its end."""

    def __init__(self, body: AnswerBody, cache: ResponseCache, key: Hashable, path: str, blank: StoredAnswer) -> None:
        """`blank` is what will be kept, but for the body."""
        self._body = body
        self._cache = cache
        self._key = key
        self._path = path
        self._blank = blank
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def __aiter__(self) -> "_Recording":
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._body)
        except StopAsyncIteration:
            if self._is_remembered:
                stored = self._blank._replace(body=b"".join(self._pieces))
                self._cache.keep_stream(self._key, self._path, stored)
            raise
        self._num_bytes += len(piece)
        if self._is_remembered:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        return piece

    @property
    def _is_remembered(self) -> bool:
        return self._num_bytes <= self._cache.max_bytes

    async def aclose(self) -> None:
        await self._body.aclose()

    async def execution_stats(self) -> ExecutionStats:
        return await self._body.execution_stats()


class _Replay:
    """A body that is in memory, whole. `origin` is the body it was read from, if it is still to be closed."""

    def __init__(self, body: bytes, origin: AnswerBody | None = None) -> None:
        self._pieces = [body]
        self._origin = origin

    def __aiter__(self) -> "_Replay":
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()

    async def aclose(self) -> None:
        if self._origin is not None:
            await self._origin.aclose()

    async def execution_stats(self) -> ExecutionStats:
        return ExecutionStats() if self._origin is None else await self._origin.execution_stats()


async def _read_ahead(answer: Answer) -> bytes:
    """Read a body that is no stream: its reader may take the only piece and not ask for the end."""
    try:
        body = b"".join([piece async for piece in answer.body])
    except BaseException:
        await answer.aclose()
        raise
    answer.body = _Replay(body, answer.body)
    return body


def _blank(answer: Answer) -> StoredAnswer:
    return StoredAnswer(b"", answer.headers["content-type"], answer.origin.target)


def _answer_from(stored: StoredAnswer) -> Answer:
    origin = Origin(stored.target, num_attempts=0, sharing="hit")
    return Answer(200, {"content-type": stored.content_type}, _Replay(stored.body), origin)


def _compact(events: bytes) -> bytes:
    """All text in one event: what comes in one read with the end of a stream, chatbot-ui shows only the first of."""
    normalizer = stream_normalizer.StreamNormalizer()
    return normalizer.feed(events) + normalizer.end()


def _size(stored: StoredAnswer) -> int:
    return len(stored.body) + ENTRY_BYTES
