"""The bytes of a request's images and sounds, from its data: URLs or from the internet."""

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from handler.api.media_parts import MediaKind, MediaPart, MediaText
from handler.engine.prompt import MediaPrompt
from handler.errors import InvalidRequestError, QueueFullError
from handler.media.data_url import is_data_url, read_data_url
from handler.media.fetch import Connect, FetchLimits, Resolve, connect, fetch, resolve
from handler.media.image_header import read_image_header
from handler.media.sound import checked_wav

MAX_PIXELS = 50_000_000  # of an image: 150 MB decoded, and copies of it
MAX_SECONDS = 20 * 60  # of a sound: 77 MB decoded, and copies of it
MAX_READING = 64  # requests whose media are read or wait for it; one more is refused
NUM_THREADS = 8
DECODED = ("png", "jpeg", "gif")


class MediaReader:
    """Reads the media of requests, in threads of its own, so that a slow server holds up no other request. The threads
    end with the process. `kinds` are those that the model takes. `max_bytes` bounds all media of a request together;
    `fetches_urls` allows other URLs than data: ones, see handler.media.fetch."""

    def __init__(
        self,
        kinds: Collection[MediaKind],
        *,
        max_bytes: int,
        fetches_urls: bool,
        resolve: Resolve = resolve,
        connect: Connect = connect,
    ) -> None:
        self.kinds = kinds
        self._limits = FetchLimits(schemes=frozenset({"http", "https"}), max_bytes=max_bytes)
        self._fetches_urls = fetches_urls
        self._resolve = resolve
        self._connect = connect
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="media-reader")
        self._num_reading = 0  # of the event loop's thread

    async def read(self, prompt: MediaText) -> MediaPrompt:
        """The prompt with its media's bytes. Raises InvalidRequestError, which names the part, and QueueFullError."""
        if self._num_reading >= MAX_READING:
            raise QueueFullError(f"The worker is busy: {MAX_READING} requests wait for their images. Try later.")
        self._num_reading += 1
        try:
            loop = asyncio.get_running_loop()
            media: list[bytes] = []
            for part in prompt.media:
                left = self._limits.max_bytes - sum(map(len, media))
                media.append(await loop.run_in_executor(self._threads, self._read, part, left))
        finally:
            self._num_reading -= 1
        return MediaPrompt(prompt.texts, tuple(media))

    def _read(self, part: MediaPart, max_bytes: int) -> bytes:
        try:
            data = self._load(part.url, max_bytes)
            if part.kind == "sound":
                return checked_wav(data, MAX_SECONDS)
            header = read_image_header(data, MAX_PIXELS)
            if header.format not in DECODED:
                raise InvalidRequestError(f"The image is {header.format}; png, jpeg and gif can be read here.")
        except InvalidRequestError as error:
            raise error.at(part.param) from None
        return data

    def _load(self, url: str, max_bytes: int) -> bytes:
        if is_data_url(url):
            return read_data_url(url, max_bytes)
        if not self._fetches_urls:
            raise InvalidRequestError("This worker fetches no URLs: send the image as data:image/png;base64,....")
        limits = replace(self._limits, max_bytes=max_bytes)
        return fetch(url, limits, resolve=self._resolve, connect=self._connect)
