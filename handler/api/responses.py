"""POST /v1/responses: OpenAI's Responses, without a store, and the count of a prompt's tokens."""

import asyncio

from handler.api.chat import ChatCompletions
from handler.api.common import Answer
from handler.api.response_events import ResponseEvents
from handler.api.response_request import to_chat
from handler.api.stream import EventStream
from handler.api.translated_parameters import renaming_errors


class Responses:
    """Chats in another form: the same requests to the engine, and a writer of the same events."""

    def __init__(self, chat: ChatCompletions) -> None:
        self._chat = chat

    async def create(self, body: object) -> Answer | EventStream:
        """Answer a decoded body. Raises RequestError before anything is sent."""
        chat = await asyncio.to_thread(to_chat, body)
        assert isinstance(body, dict), "checked"
        with renaming_errors("responses"):
            begun = await self._chat.begin(chat)
        writer = ResponseEvents(body, begun.model, begun.plan.form)
        if begun.request.stream:
            return await EventStream.open(begun.generation, writer, writer.failure)
        (output,) = await begun.generation.result()
        return writer.whole(output)

    async def count_tokens(self, body: object) -> Answer:
        """How many tokens the prompt has, without generating anything."""
        chat = await asyncio.to_thread(to_chat, body)
        with renaming_errors("responses"):
            return await self._chat.count_tokens(chat)
