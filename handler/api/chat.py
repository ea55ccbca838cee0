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
from handler.engine.generation import Generation
from handler.engine.prompt import MixedText, Prompt
from handler.engine.sequence import SequenceOutput, SequenceUsage, TokenLogprob
from handler.errors import ContextLengthError, SchemaError


class ChatCompletions:
    """`template` gives the chat template, or raises the error that tells a client why there is none."""

    def __init__(self, engine: Engine, template: Callable[[], ChatTemplate], names: ServedNames) -> None:
        self._engine = engine
        self._template = template
        self._names = names

    async def create(self, body: object) -> Answer | EventStream:
        """Answer a decoded body. Raises RequestError before anything is sent."""
        request, prompt = await asyncio.to_thread(self._read, body)
        identity = Identity.new("chatcmpl", self._names.resolve(request.model))
        generation = await self._generate(request, prompt)
        if request.stream:
            return await EventStream.open(generation, ChatChunks(identity, request))
        return _completion(identity, await generation.result())

    async def count_tokens(self, body: object) -> Answer:
        """How many tokens the conversation's prompt has, without generating anything."""
        _, prompt = await asyncio.to_thread(self._read, body)
        return {"object": "response.input_tokens", "input_tokens": len(await self._engine.tokenize(prompt))}

    async def _generate(self, request: ChatCompletionRequest, prompt: Prompt) -> Generation:
        try:
            return await self._engine.generate([prompt], sampling_params(request), request.n)
        except ContextLengthError as error:
            raise error.at("messages") from error
        except SchemaError as error:
            raise error.at(request.wanted.param if request.wanted else "response_format") from error

    def _read(self, body: object) -> tuple[ChatCompletionRequest, MixedText]:
        """The request and its prompt. In a thread: a large body takes tens of milliseconds, some templates too."""
        request = parse(ChatCompletionRequest, body)
        self._names.resolve(request.model)  # the first thing a client should hear
        add_generation_prompt = request.add_generation_prompt
        prompt = self._template().prompt(
            request.messages,
            continue_final_message=request.continues_final_message,
            add_generation_prompt=True if add_generation_prompt is None else add_generation_prompt,
            **request.template_variables,
        )
        return request, MixedText(prompt.text, prompt.literals)


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
        self._templates: dict[int, sse.EventTemplate] = {}  # of each choice that has begun
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
        if index not in self._templates:
            self._templates[index] = sse.EventTemplate(lambda text: self._delta(index, ChoiceDelta(content=text)))
            events += sse.encode(self._delta(index, ChoiceDelta(role="assistant", content="")))
        if output.logprobs:
            events += sse.encode(self._delta(index, ChoiceDelta(content=output.text), output.logprobs))
        elif output.text:
            events += self._templates[index].encode(output.text)
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
