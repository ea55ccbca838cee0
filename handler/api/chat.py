"""POST /v1/chat/completions: messages in, an answer or its chunks out."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from handler.api.chat_chunks import ChatChunks, chat_completion
from handler.api.chat_plan import ChatPlan, plan_chat
from handler.api.common import Answer, Identity
from handler.api.media_parts import refuse_media
from handler.api.media_reader import MediaReader
from handler.api.model_names import ServedNames
from handler.api.protocol import ChatCompletionRequest, parse
from handler.api.stream import EventStream
from handler.api.turn import ReasoningStyle
from handler.chat.template import ChatTemplate
from handler.engine.engine import Engine
from handler.engine.generation import Generation
from handler.engine.prompt import MediaPrompt, MixedText
from handler.errors import ContextLengthError, SchemaError


class BegunChat(NamedTuple):
    """A chat that the engine works on, for a writer of any form."""

    request: ChatCompletionRequest
    model: str  # the name it is served under
    plan: ChatPlan
    generation: Generation


class ChatCompletions:
    """`template` gives the chat template, or raises the error that tells a client why there is none.

    `reasoning` says where a model's reasoning goes if the request does not; with `doubles_reasoning` it is sent under
    both names that clients have for it. `media` reads images and sounds; None where the model takes none.
    """

    def __init__(
        self,
        engine: Engine,
        template: Callable[[], ChatTemplate],
        names: ServedNames,
        *,
        reasoning: ReasoningStyle = "split",
        doubles_reasoning: bool = False,
        media: MediaReader | None = None,
    ) -> None:
        self._engine = engine
        self._template = template
        self._names = names
        self._reasoning = reasoning
        self._doubles_reasoning = doubles_reasoning
        self._media = media

    async def create(self, body: object) -> Answer | EventStream:
        """Answer a decoded body. Raises RequestError before anything is sent."""
        request, model, plan, generation = await self.begin(body)
        identity = Identity.new("chatcmpl", model)
        writer = ChatChunks(
            identity,
            plan.form,
            include_usage=request.include_usage,
            is_old=request.tool_request.is_old,
            doubles_reasoning=self._doubles_reasoning,
        )
        if request.stream:
            return await EventStream.open(generation, writer)
        return chat_completion(writer, await generation.result())

    async def begin(self, body: object) -> BegunChat:
        """Check a decoded body and start its generation, which the caller reads or cancels. Raises RequestError."""
        request, plan = await asyncio.to_thread(self._read, body)
        model = self._names.resolve(request.model)
        return BegunChat(request, model, plan, await self._generate(request, plan))

    async def count_tokens(self, body: object) -> Answer:
        """How many tokens the conversation's prompt has, without generating anything."""
        return {"object": "response.input_tokens", "input_tokens": await self.num_prompt_tokens(body)}

    async def num_prompt_tokens(self, body: object) -> int:
        """The length of a decoded body's prompt. Raises RequestError."""
        _, plan = await asyncio.to_thread(self._read, body)
        return len(await self._engine.tokenize(await self._prompt(plan)))

    async def _generate(self, request: ChatCompletionRequest, plan: ChatPlan) -> Generation:
        try:
            return await self._engine.generate(
                [await self._prompt(plan)], plan.params, request.n, adapter=self._names.adapter(request.model)
            )
        except ContextLengthError as error:
            raise error.at("messages") from error
        except SchemaError as error:
            if error.param is not None:
                raise
            raise error.at(request.wanted.param if request.wanted else "tools") from error

    async def _prompt(self, plan: ChatPlan) -> MixedText | MediaPrompt:
        if isinstance(plan.prompt, MixedText):
            return plan.prompt
        assert self._media is not None, "media are refused where nothing reads them"
        return await self._media.read(plan.prompt)

    def _read(self, body: object) -> tuple[ChatCompletionRequest, ChatPlan]:
        """The request and what it means. In a thread: a large body takes tens of milliseconds, some templates too."""
        request = parse(ChatCompletionRequest, body)
        self._names.resolve(request.model)  # the first thing a client should hear
        refuse_media(request.messages, self._media.kinds if self._media else ())
        return request, plan_chat(request, self._template(), self._engine.runner.vocabulary, self._reasoning)
