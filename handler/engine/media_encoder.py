"""Images and sounds to what stands for them in a prompt, in a thread of its own, each once while it is remembered."""

import asyncio
import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Protocol

from handler.engine.media_run import MAX_KEY, MediaRun
from handler.errors import ContextLengthError, QueueFullError, UnavailableError

MAX_WAITING = 64  # media that are encoded or wait for it; one more is refused
MAX_CACHED_BYTES = 256 << 20  # of embeddings that no request needs now
MAX_HELD_BYTES = 4 << 30  # of those that requests hold until they are over
MAX_KNOWN = 65_536  # files whose keys are remembered

Media = tuple[list[int] | MediaRun, ...]  # tokens and runs, in their order


class Projector(Protocol):
    """The model's part that sees or hears. Used by one thread."""

    sees: bool
    hears: bool

    def encode(self, data: bytes) -> list[list[int] | MediaRun]:
        """A file as tokens and runs, whose keys are ignored. Raises InvalidRequestError for one that cannot be read,
        and EngineError."""
        ...

    def close(self) -> None: ...


class MediaEncoder:
    """Owns a projector, its thread and the cache of embeddings, of which the least recently used ones are dropped.

    Equal bytes are encoded once, also where requests ask for them at the same time. The keys of runs are counted, so no
    client can make an image that passes for another's. They are remembered for longer than embeddings, since
    conversations stay cached by them.
    """

    def __init__(
        self, projector: Projector, max_bytes: int = MAX_CACHED_BYTES, max_held_bytes: int = MAX_HELD_BYTES
    ) -> None:
        self._projector = projector
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="media")
        self._num_waiting = 0  # of the event loop's thread
        self._is_closing = False
        # The thread's own
        self.num_encoded = 0
        self._cache: OrderedDict[bytes, Media] = OrderedDict()
        self._num_cached_bytes = 0
        self._keys: OrderedDict[bytes, int] = OrderedDict()  # of each file's first run, by its hash
        self._num_keys = 0  # given out so far
        # Any thread's: whichever drops an array last.
        self._num_held_bytes = 0
        self._holding = threading.RLock()

    @property
    def sees(self) -> bool:
        return self._projector.sees

    @property
    def hears(self) -> bool:
        return self._projector.hears

    async def encode(self, files: Iterable[bytes], max_tokens: int) -> list[Media]:
        """Each file, in turns with those of other requests. Raises InvalidRequestError, QueueFullError, EngineError or
        UnavailableError, and ContextLengthError as soon as all together have more tokens than that. Cancelling leaves
        out those that are not begun."""
        media: list[Media] = []
        num_tokens = 0
        for data in files:
            media.append(await self._encode_one(data))
            num_tokens += sum(part.num_tokens for part in _runs(media[-1]))
            if num_tokens > max_tokens:
                raise ContextLengthError(
                    f"This model's maximum context length is {max_tokens} tokens, but the images alone have more. "
                    "Please send fewer or smaller ones."
                )
        return media

    async def _encode_one(self, data: bytes) -> Media:
        if self._num_waiting >= MAX_WAITING:
            raise QueueFullError(f"The worker is busy: {MAX_WAITING} images and sounds wait to be encoded. Try later.")
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._remembered, data)
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """End the thread after the current file, and free the projector. Blocks."""
        self._is_closing = True
        self._thread.shutdown()
        self._projector.close()

    # The thread

    def _remembered(self, data: bytes) -> Media:
        if self._is_closing:
            raise UnavailableError("The worker is stopping.")
        name = hashlib.sha256(data).digest()
        if (media := self._cache.get(name)) is not None:
            self._cache.move_to_end(name)
            return media
        if self._num_held_bytes > self._max_held_bytes:
            raise QueueFullError("The worker is busy: the images of other requests fill its memory. Try later.")
        media = self._with_keys(self._projector.encode(data), name)
        self._note_held(media)
        self.num_encoded += 1
        self._cache[name] = media
        self._num_cached_bytes += _num_bytes(media)
        while self._num_cached_bytes > self._max_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._num_cached_bytes -= _num_bytes(dropped)
        return media

    def _with_keys(self, parts: list[list[int] | MediaRun], name: bytes) -> Media:
        """The same as when the file was last seen; else new ones. After a thousand million they begin anew."""
        first = self._keys.pop(name, None)
        if first is None:
            first = self._num_keys
            self._num_keys += sum(isinstance(part, MediaRun) for part in parts)
        self._keys[name] = first
        if len(self._keys) > MAX_KNOWN:
            self._keys.popitem(last=False)
        keys = count(first)
        return tuple(
            replace(part, key=1 + next(keys) % MAX_KEY) if isinstance(part, MediaRun) else part for part in parts
        )

    def _note_held(self, media: Media) -> None:
        """Count the embeddings until nothing refers to them any more."""
        for run in _runs(media):
            self._add_held(run.embeddings.nbytes)
            weakref.finalize(run.embeddings, self._add_held, -run.embeddings.nbytes).atexit = False

    def _add_held(self, num_bytes: int) -> None:
        with self._holding:
            self._num_held_bytes += num_bytes


def _runs(media: Media) -> Iterator[MediaRun]:
    return (part for part in media if isinstance(part, MediaRun))


def _num_bytes(media: Media) -> int:
    return sum(run.embeddings.nbytes for run in _runs(media))
