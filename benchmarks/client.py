"""A load client: one streamed completion over a plain socket, with the time of each event.

The standard library alone, so that it runs wherever Python does, and little work for each event, so that the machine's
cores stay with the server. Knows nothing of which server answers.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
LINE_LIMIT = 1 << 20  # bytes of one event


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

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.arrivals[0] - self.started

    @property
    def gaps(self) -> list[float]:
        """Seconds between texts."""
        begin, end = self.window
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [later - earlier for earlier, later in pairs if begin <= later <= end]


async def ask(url: str, route: str, body: dict[str, Any]) -> Answer:
    """Stream an answer to its end. Failures are in `error`, not raised."""
    answer = Answer(time.perf_counter())
    try:
        await _stream(answer, url, route, {**body, "stream": True, "stream_options": {"include_usage": True}})
        if answer.finish_reason == "length" and not answer.num_tokens:  # llama-cpp-python's streams have no usage
            answer.num_tokens = body["max_tokens"]
        if not answer.num_tokens:
            answer.error = answer.error or "the stream ended without usage"
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended = time.perf_counter()
    return answer


async def _stream(answer: Answer, url: str, route: str, body: dict[str, Any]) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=LINE_LIMIT)
    try:
        data = json.dumps(body).encode()
        head = f"POST {route} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        status = (await reader.readline()).split(b" ", 2)[1:2]
        if status != [b"200"]:
            answer.error = f"status {status}: {(await reader.read(2000))[-300:]!r}"
            return
        while line := await reader.readline():  # the sizes of chunks are lines too, which are no events
            if line.startswith(b"data: {"):
                _take(answer, json.loads(line[6:]))
    finally:
        writer.close()


def _take(answer: Answer, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        answer.error = str(chunk["error"])[:300]
    for choice in chunk.get("choices", ()):
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        if text := choice.get("text") or (choice.get("delta") or {}).get("content"):
            answer.arrivals.append(time.perf_counter())
            answer.text += text
    if usage := chunk.get("usage"):
        answer.num_prompt_tokens = usage["prompt_tokens"]
        answer.num_tokens = usage["completion_tokens"]
        answer.num_cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
