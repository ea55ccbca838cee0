"""POST /v1/chat/completions: messages in, an answer or its chunks out."""

import asyncio
from collections.abc import Callable

from handler.api import sse
from handler.api.common import Answer, Identity, finish_reason, token_logprob, token_text, total_usage
from handler.api.model_names import ServedNames
from handler.api.openai_types import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionTokenLogprob,
    ChatLogprobs,
    ChoiceDelta,
    ChunkChoice,
    ChunkLogprobs,
    TopLogprob,
)
from handler.api.protocol import ChatCompletionRequest, parse
from handler.api.sampling import sampling_params
from handler.api.stream import EventStream, Outputs
from handler.chat.template import ChatTemplate
from handler.engine.engine import Engine
from handler.engine.sequence import SequenceOutput, SequenceUsage, TokenLogprob
from handler.errors import ContextLengthError, SchemaError


class ChatCompletions:
    """`template` gives the chat template, or raises the error that tells a client why there is none."""

    def __init__(self, engine: Engine, template: Callable[[], ChatTemplate], names: ServedNames) -> None:
        self._engine = engine
        self._template = template
        self._names = names

    async def create(self, body: object) -> Answer | EventStream:
        request = parse(ChatCompletionRequest, body)
        identity = Identity.new("chatcmpl", self._names.resolve(request.model))
        prompt = await asyncio.to_thread(self._render, request)
        try:
            generation = await self._engine.generate([prompt], sampling_params(request), request.n)
        except ContextLengthError as error:
            error.param = "messages"
            raise
        except SchemaError as error:
            error.param = request.response_format.param
            raise
        if request.stream:
            return await EventStream.open(generation, ChatChunks(identity, request))
        return _completion(identity, await generation.result())

    def _render(self, request: ChatCompletionRequest) -> str:
        return self._template().render(request.messages, **request.chat_template_kwargs)


def _completion(identity: Identity, outputs: list[SequenceOutput]) -> Answer:
    return ChatCompletion(
        **identity._asdict(),
        object="chat.completion",
        choices=[_choice(index, output) for index, output in enumerate(outputs)],
        usage=total_usage([output.usage for output in outputs if output.usage], n=len(outputs)),
    ).model_dump(exclude_unset=True)


def _choice(index: int, output: SequenceOutput) -> ChatChoice:
    reason = finish_reason(output.finish_reason)
    assert reason is not None, "an answer is whole when its sequence is finished"
    message = ChatCompletionMessage(role="assistant", content=output.text, refusal=None)
    logprobs = ChatLogprobs(content=_tokens(output.logprobs), refusal=None) if output.logprobs else None
    return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=reason)


class ChatChunks:
    """The chunks of one answer: for each choice its role, its text, its finish; then, if asked for, the usage."""

    def __init__(self, identity: Identity, request: ChatCompletionRequest) -> None:
        self._identity = identity
        self._include_usage = request.include_usage
        self._moulds: dict[int, sse.EventTemplate] = {}  # of each choice that has begun
        self._usages: dict[int, SequenceUsage] = {}

    def events(self, outputs: Outputs) -> str:
        return "".join(self._choice_events(index, output) for index, output in outputs.items())

    def end(self) -> str:
        if not self._include_usage:
            return sse.DONE
        usages = [self._usages[index] for index in sorted(self._usages)]
        chunk = self._chunk([])
        chunk.usage = total_usage(usages, n=len(usages))
        return sse.encode(chunk) + sse.DONE

    def _choice_events(self, index: int, output: SequenceOutput) -> str:
        events = ""
        if index not in self._moulds:
            self._moulds[index] = sse.EventTemplate(lambda text: self._delta(index, ChoiceDelta(content=text)))
            events += sse.encode(self._delta(index, ChoiceDelta(role="assistant", content="")))
        if output.logprobs:
            events += sse.encode(self._delta(index, ChoiceDelta(content=output.text), output.logprobs))
        elif output.text:
            events += self._moulds[index].encode(output.text)
        if output.usage is not None:
            self._usages[index] = output.usage
            finish = ChunkChoice(index=index, delta=ChoiceDelta(), finish_reason=finish_reason(output.finish_reason))
            events += sse.encode(self._chunk([finish]))
        return events

    def _delta(self, index: int, delta: ChoiceDelta, logprobs: tuple[TokenLogprob, ...] = ()) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=None)
        if logprobs:
            choice.logprobs = ChunkLogprobs(content=_tokens(logprobs), refusal=None)
        return self._chunk([choice])

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._identity._asdict(), object="chat.completion.chunk", choices=choices)


def _tokens(entries: tuple[TokenLogprob, ...]) -> list[ChatCompletionTokenLogprob]:
    return [
        ChatCompletionTokenLogprob(
            token=token_text(entry),
            bytes=list(entry.piece),
            logprob=token_logprob(entry),
            top_logprobs=[
                TopLogprob(token=token_text(top), bytes=list(top.piece), logprob=token_logprob(top))
                for top in entry.top
            ],
        )
        for entry in entries
    ]
