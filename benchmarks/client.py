"""The load generator: streamed answers over plain connections, with the time of each text.

Every benchmark asks through it, whether a worker, a peer, a gateway or an endpoint answers. Knows nothing of which.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.connection import Connection, TakePiece, request

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EVENT = b"data: {"  # how an event with an object in it begins


@dataclass(slots=True)
class Answer:
    """One request as its client saw it. Times are of time.perf_counter, in seconds."""

    started: float
    arrivals: list[float] = field(default_factory=list)  # of each event with text
    ended: float = 0.0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_tokens: int = 0
    text: str = ""
    finish_reason: str = ""
    error: str = ""
    window: tuple[float, float] = (0.0, float("inf"))  # gaps that end within it count
    num_events: int = 0  # with or without text
    is_cut: bool = False  # the measurement was over first

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.arrivals[0] - self.started

    @property
    def whole(self) -> float:
        """Seconds to the end."""
        return self.ended - self.started

    @property
    def gaps(self) -> list[float]:
        """Seconds between texts."""
        begin, end = self.window
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [later - earlier for earlier, later in pairs if begin <= later <= end]


class Client:
    """Asks one thing after the other, over a connection that it keeps. Used by one task.

    `answer` is the latest, also while it comes.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.answer: Answer | None = None
        self._url = url
        self._key = key
        self._connection = Connection(url)

    async def connect(self) -> None:
        """Before the first question, so that its time is not the connection's. Raises OSError."""
        await self._connection.connect()

    async def ask(self, route: str, body: dict[str, Any]) -> Answer:
        """Stream an answer to its end, and read it. Failures are in `error`, not raised."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        answer = await self._send(route, body, reader)
        if answer.finish_reason == "length" and not answer.num_tokens:  # llama-cpp-python's streams have no usage
            answer.num_tokens = body["max_tokens"]
        if not answer.num_tokens:
            answer.error = answer.error or "the stream ended without usage"
        return answer

    async def count(self, route: str, body: dict[str, Any]) -> Answer:
        """Send a body as it is, and count the events of its answer without reading them: for rates at which reading
        would be what is measured. `arrivals` has the first event alone."""
        return await self._send(route, body, counter)

    def close(self) -> None:
        """Also in the midst of an answer."""
        self._connection.close()

    async def _send(self, route: str, body: dict[str, Any], make: Callable[[Answer], TakePiece]) -> Answer:
        data = request(self._url, route, json.dumps(body).encode(), self._key)
        self.answer = answer = Answer(time.perf_counter())
        try:
            await self._connection.exchange(data, make(answer))
        except (OSError, ValueError) as error:
            answer.error = f"{type(error).__name__}: {error}"
            self._connection.close()
        answer.ended = time.perf_counter()
        return answer


async def ask(url: str, route: str, body: dict[str, Any], key: str = "") -> Answer:
    """Stream one answer to its end, over a connection of its own. Failures are in `error`, not raised."""
    client = Client(url, key)
    try:
        return await client.ask(route, body)
    finally:
        client.close()


def reader(answer: Answer) -> TakePiece:
    """Fills an answer from the events of a body, whose pieces may end anywhere."""
    rest = b""

    def take(piece: bytes, now: float) -> None:
        nonlocal rest
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(EVENT):
                _read(answer, json.loads(line[len(EVENT) - 1 :]), now)

    return take


def counter(answer: Answer) -> TakePiece:
    """Counts an answer's events."""
    tail = b""  # shorter than what is counted, so nothing counts twice

    def take(piece: bytes, now: float) -> None:
        nonlocal tail
        piece = tail + piece
        tail = piece[1 - len(EVENT) :]
        num_events = piece.count(EVENT)
        if num_events and not answer.num_events:
            answer.arrivals.append(now)
        answer.num_events += num_events

    return take


def _read(answer: Answer, chunk: dict[str, Any], now: float) -> None:
    answer.num_events += 1
    if "error" in chunk:
        answer.error = str(chunk["error"])[:300]
    for choice in chunk.get("choices", ()):
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        if text := _text(choice):
            answer.arrivals.append(now)
            answer.text += text
    if usage := chunk.get("usage"):
        answer.num_prompt_tokens = usage.get("prompt_tokens", 0)
        answer.num_tokens = usage.get("completion_tokens", 0)
        answer.num_cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def _text(choice: dict[str, Any]) -> str:
    """What a choice's event says, of an answer or of the thoughts before it."""
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""
