"""POST /v1/completions: prompts in, their continuations or the chunks of them out."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from handler.api import sse
from handler.api.common import Answer, Identity, finish_reason, token_logprob, total_usage
from handler.api.completion_logprobs import (
    Logprobs,
    PromptLogprobs,
    answer_logprobs,
    echoed_logprobs,
    joined,
    prompt_logprobs,
)
from handler.api.fields import unsupported
from handler.api.model_names import ServedNames
from handler.api.openai_types import Completion, CompletionChoice, CompletionUsage
from handler.api.protocol import CompletionRequest, parse
from handler.api.sampling import sampling_params
from handler.api.stream import EventStream, Outputs
from handler.engine.engine import Engine
from handler.engine.generation import Generation
from handler.engine.logprobs import ScoredPrompt
from handler.engine.prompt import Infill, Prompt
from handler.engine.sequence import SequenceOutput, SequenceUsage
from handler.errors import ContextLengthError, SchemaError

DEFAULT_TOKENS = 16  # OpenAI's, of completions alone


class ChunkChoice(CompletionChoice):
    """OpenAI streams null until the end; its own type does not say so."""

    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]  # widened on purpose
    logprobs: Logprobs | None = None
    prompt_logprobs: list[PromptLogprobs | None] | None = None  # vLLM's


class CompletionChunk(Completion):
    choices: list[ChunkChoice]  # type: ignore[assignment]  # as above


class Completions:
    """`suffix_first`: the order in which the model was trained to fill in the middle; else the prefix comes first."""

    def __init__(self, engine: Engine, names: ServedNames, *, suffix_first: bool = False) -> None:
        self._engine = engine
        self._names = names
        self._suffix_first = suffix_first

    async def create(self, body: object, *, unlimited: bool = False) -> Answer | EventStream:
        """Answer a decoded body. Raises RequestError before anything is sent.

        A request that limits its tokens by nothing gets OpenAI's 16, or with `unlimited` what the context leaves.
        """
        request = await asyncio.to_thread(parse, CompletionRequest, body)
        identity = Identity.new("cmpl", self._names.resolve(request.model))
        generation = await self._generate(request, None if unlimited else max(DEFAULT_TOKENS, request.min_tokens))
        writer = CompletionChunks(identity, request, self._echoes(request))
        if request.stream:
            return await EventStream.open(generation, writer)
        outputs = await generation.result()
        return writer.whole(best(outputs, request), outputs)

    async def _generate(self, request: CompletionRequest, default_tokens: int | None) -> Generation:
        params = sampling_params(request, default_tokens)
        if request.num_candidates > request.n and params.num_logprobs is None:
            params = replace(params, num_logprobs=0)  # by which the best are found
        try:
            return await self._engine.generate(
                self._prompts(request), params, request.num_candidates, adapter=self._names.adapter(request.model)
            )
        except ContextLengthError as error:
            raise error.at("prompt") from error
        except SchemaError as error:
            raise error.at(request.wanted.param if request.wanted else "response_format") from error

    def _prompts(self, request: CompletionRequest) -> list[Prompt]:
        """The request's; with a suffix, what stands before the gap."""
        if not request.suffix:
            return list(request.prompts)
        if self._engine.runner.fim_tokens is None:
            raise unsupported("suffix", "this model has no tokens to fill in the middle with")
        texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]  # all of them: it was checked
        return [Infill(text, request.suffix, suffix_first=self._suffix_first) for text in texts]

    def _echoes(self, request: CompletionRequest) -> list[str]:
        """The text each choice begins with."""
        prompts = [self._engine.text(prompt) if request.echo else "" for prompt in request.prompts]
        return [prompt for prompt in prompts for _ in range(request.n)]


def best(outputs: list[SequenceOutput], request: CompletionRequest) -> list[SequenceOutput]:
    """Of each prompt's candidates the `n` likeliest by their mean logprob a token, the likeliest first."""
    num_candidates = request.num_candidates
    if num_candidates == request.n:
        return outputs
    chosen: list[SequenceOutput] = []
    for start in range(0, len(outputs), num_candidates):
        candidates = sorted(outputs[start : start + num_candidates], key=_mean_logprob, reverse=True)
        chosen += candidates[: request.n]
    return chosen if request.logprobs is not None else [output._replace(logprobs=()) for output in chosen]


def _mean_logprob(output: SequenceOutput) -> float:
    """Of an answer without tokens: that of certainty."""
    return sum(map(token_logprob, output.logprobs)) / max(1, len(output.logprobs))


class CompletionChunks:
    """The chunks of one answer; the whole answer is one chunk of everything.

    Where the prompts' tokens have logprobs they come with the first candidate of each: other choices wait for them.
    """

    def __init__(self, identity: Identity, request: CompletionRequest, echoes: list[str]) -> None:
        self._identity = identity
        self._num_choices = request.n
        self._num_candidates = request.num_candidates
        self._num_prompt_logprobs = request.prompt_logprobs
        self._num_logprobs = request.logprobs or 0
        self._echoes_logprobs = request.echoes_logprobs
        self._prompts: dict[int, ScoredPrompt] = {}  # by number, those that are scored
        self._waiting: dict[int, SequenceOutput] = {}  # choices whose prompt is not
        self._include_usage = request.include_usage
        self._echoes = dict(enumerate(echoes))
        self._templates: dict[int, sse.EventTemplate] = {}  # of each choice whose text has begun
        self._num_chars = dict.fromkeys(self._echoes, 0)  # of each choice's text so far
        self._usages: dict[int, SequenceUsage] = {}

    def whole(self, chosen: list[SequenceOutput], generated: list[SequenceOutput]) -> Answer:
        """The chosen outputs as one answer; all that were generated count as used."""
        for index, output in enumerate(generated[:: self._num_candidates]):
            self._note_prompt(index, output)
        completion = self._completion([self._choice(index, output) for index, output in enumerate(chosen)])
        usages = [output.usage for output in generated if output.usage]
        completion.usage = total_usage(usages, self._num_candidates)
        return completion.model_dump(exclude_unset=True)

    def events(self, outputs: Outputs) -> str:
        """One chunk a choice with what is new, then, if it finished, one that says so and has no text."""
        return "".join(self._choice_events(index, output) for index, output in self._ready(outputs).items())

    def end(self) -> str:
        if not self._include_usage:
            return sse.DONE
        chunk = self._completion([])
        chunk.usage = self._usage()
        return sse.encode(chunk) + sse.DONE

    def _ready(self, outputs: Outputs) -> Outputs:
        """What can be written of these outputs and of those before them."""
        if not self._echoes_logprobs:
            return outputs
        for index, output in outputs.items():
            self._note_prompt(index // self._num_choices, output)
            waiting = self._waiting.get(index)
            self._waiting[index] = waiting.followed_by(output) if waiting else output
        ready = [index for index in self._waiting if index // self._num_choices in self._prompts]
        return {index: self._waiting.pop(index) for index in ready}

    def _note_prompt(self, number: int, output: SequenceOutput) -> None:
        if output.prompt is not None:
            self._prompts[number] = output.prompt

    def _choice_events(self, index: int, output: SequenceOutput) -> str:
        template = self._templates.get(index)
        if template is not None and output.finish_reason is None and not output.logprobs:
            self._num_chars[index] += len(output.text)
            return template.encode(output.text)
        if template is None:
            self._templates[index] = sse.EventTemplate(lambda text: sse.encode(self._text(index, text)))
        choices = _text_then_finish(self._choice(index, output))
        return "".join(sse.encode(self._completion([choice])) for choice in choices)

    def _text(self, index: int, text: str) -> CompletionChunk:
        return self._completion([ChunkChoice(index=index, text=text, logprobs=None, finish_reason=None)])

    def _choice(self, index: int, output: SequenceOutput) -> ChunkChoice:
        if output.usage is not None:
            self._usages[index] = output.usage
        echo = self._echoes.pop(index, None)
        start = self._num_chars[index] + len(echo or "")
        self._num_chars[index] = start + len(output.text)
        choice = ChunkChoice(
            index=index,
            text=(echo or "") + output.text,
            logprobs=None,
            finish_reason=finish_reason(output.finish_reason),
        )
        parts = [answer_logprobs(output, start)] if output.logprobs else []
        if echo is not None and (prompt := self._prompts.get(index // self._num_choices)):
            if self._echoes_logprobs:
                parts.insert(0, echoed_logprobs(prompt, echo, self._num_logprobs))
            if self._num_prompt_logprobs is not None:
                choice.prompt_logprobs = prompt_logprobs(prompt, self._num_prompt_logprobs)
        if parts:
            choice.logprobs = joined(parts)
        return choice

    def _usage(self) -> CompletionUsage:
        return total_usage([self._usages[index] for index in sorted(self._usages)], self._num_candidates)

    def _completion(self, choices: list[ChunkChoice]) -> CompletionChunk:
        return CompletionChunk(**self._identity._asdict(), object="text_completion", choices=choices)


def _text_then_finish(choice: ChunkChoice) -> Iterable[ChunkChoice]:
    """Clients may take a chunk with a finish reason for one without text."""
    if choice.finish_reason is None or not choice.text:
        return [choice]
    finish = ChunkChoice(index=choice.index, text="", logprobs=None, finish_reason=choice.finish_reason)
    choice.finish_reason = None
    return [choice, finish]
