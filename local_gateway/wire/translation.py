"""Responses and Anthropic's Messages, for targets that have chat completions only."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire import messages, responses
from local_gateway.wire.answer_reader import ReadAnswer
from local_gateway.wire.sse import EVENT_STREAM, encode_named, events_in

CHAT = "/chat/completions"
COUNT = f"{CHAT}/input_tokens"
# What can be translated, and to what.
PATHS = {
    "/messages": CHAT,
    "/messages/count_tokens": COUNT,
    "/responses": CHAT,
    "/responses/input_tokens": COUNT,
}


def api_of(path: str) -> str:
    """`responses` or `messages`, of a path that can be translated."""
    return path.split("/")[1]


class Translation:
    """One request: what the target is asked instead, at `path`, and what becomes of its answer.

    Raises InvalidRequestError for what chat completions cannot say. `path` is one of PATHS.
    """

    def __init__(self, path: str, body: Mapping[str, Any]) -> None:
        self.path = PATHS[path]
        self._is_messages = path.startswith("/messages")
        self._body = dict(body)
        self.chat = messages.to_chat(self._body) if self._is_messages else responses.to_chat(self._body)

    def answer(self, read: ReadAnswer) -> ReadAnswer:
        """The answer to the chat, in the form of the request's own API."""
        if read.content_type.startswith(EVENT_STREAM):
            return ReadAnswer(read.content_type, self._events(read.blocks))
        return ReadAnswer(read.content_type, self._whole(read.blocks))

    async def _events(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        stream = messages.MessageStream() if self._is_messages else responses.ResponseBuilder(self._body)
        async for block in blocks:
            chunks = [event.chunk for event in events_in(block)]
            if told := [each for chunk in chunks if isinstance(chunk, dict) for each in stream.feed(chunk)]:
                yield b"".join(map(encode_named, told))
        yield b"".join(map(encode_named, stream.end()))

    async def _whole(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        chat = orjson.loads(b"".join([block async for block in blocks]))
        if self.path == COUNT:
            yield orjson.dumps(self._count(chat))
            return
        choices = chat.get("choices") if isinstance(chat, dict) else None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise AnswerBrokenError("What the target answered is no chat completion.")
        is_messages = self._is_messages
        yield orjson.dumps(
            messages.from_chat(chat) if is_messages else responses.ResponseBuilder(self._body).whole(chat)
        )

    def _count(self, told: object) -> dict[str, Any]:
        count = told.get("input_tokens") if isinstance(told, dict) else None
        if not isinstance(count, int):
            raise AnswerBrokenError("What the target answered is no count of tokens.")
        return {"input_tokens": count} | ({} if self._is_messages else {"object": "response.input_tokens"})
