"""POST /v1/messages: Anthropic's form of a chat, and its count of tokens."""

import asyncio
import secrets

from handler.api.anthropic_events import MessageEvents, encode_error, whole_message
from handler.api.anthropic_request import omits_thinking, to_chat
from handler.api.chat import ChatCompletions
from handler.api.common import Answer
from handler.api.stream import EventStream
from handler.api.translated_parameters import renaming_errors


class Messages:
    """Chats in another form: the same requests to the engine, and writers of the same events."""

    def __init__(self, chat: ChatCompletions) -> None:
        self._chat = chat

    async def create(self, body: object) -> Answer | EventStream:
        """Answer a decoded body. Raises RequestError before anything is sent."""
        chat = await asyncio.to_thread(to_chat, body)
        assert isinstance(body, dict), "checked"
        with renaming_errors("messages"):
            begun = await self._chat.begin(chat)
        writer = MessageEvents(
            f"msg_{secrets.token_hex(12)}",
            begun.model,
            begun.plan.form,
            lambda: begun.generation.prompt_usage,
            max_tokens=begun.request.token_limit,
            omits_thinking=omits_thinking(body),
        )
        if begun.request.stream:
            return await EventStream.open(begun.generation, writer, encode_error)
        (output,) = await begun.generation.result()
        return whole_message(writer.write(output))

    async def count_tokens(self, body: object) -> Answer:
        """How many tokens the prompt has, without generating anything."""
        chat = await asyncio.to_thread(to_chat, body)
        with renaming_errors("messages"):
            return {"input_tokens": await self._chat.num_prompt_tokens(chat)}
