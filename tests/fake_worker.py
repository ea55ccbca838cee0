"""A worker whose model is a fake: all that lies between a request and llama.cpp is real."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from openai.types.chat import ChatCompletionChunk

from handler.api.chat import ChatCompletions
from handler.api.completions import CompletionChunk, Completions
from handler.api.infill import Infills
from handler.api.model_names import ServedNames
from handler.api.routes import CHAT, COMPLETIONS, Api, Routes
from handler.api.stream import EventStream
from handler.api.tokens import Tokens
from handler.api.turn import ReasoningStyle
from handler.chat.template import model_template
from handler.engine.engine import Engine
from handler.engine.scheduler import Limits
from handler.worker import Worker
from tests.engine.fakes import TIMEOUT, FakeRunner, create_engine
from tests.waiting import eventually

NAMES = ("llama", "org/model")
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}>"  # a chat of "Hi" is the prompt "Hi>"
SCRIPTS = {"Hi>": "Hello!", "Once": " upon a time"}  # any other prompt gets letters without end

Json = dict[str, Any]


class FakeWorker(NamedTuple):
    """A worker and what its model does."""

    worker: Worker
    runner: FakeRunner

    @property
    def api(self) -> Routes:
        return self.worker.api

    @property
    def engine(self) -> Engine:
        assert isinstance(self.worker.engine, Engine), "made so"
        return self.worker.engine

    async def chat(self, text: str = "Hi", **fields: Any) -> Json:
        return await self._answer(CHAT, messages(text) | fields)

    async def complete(self, prompt: object = "Once", **fields: Any) -> Json:
        return await self._answer(COMPLETIONS, {"prompt": prompt, **fields})

    async def stream_chat(self, text: str = "Hi", **fields: Any) -> EventStream:
        return await self._stream(CHAT, messages(text) | fields)

    async def stream_completion(self, prompt: object = "Once", **fields: Any) -> EventStream:
        return await self._stream(COMPLETIONS, {"prompt": prompt, **fields})

    def permit(self, num_steps: int = 1) -> None:
        """Let a held model compute so many steps more."""
        self.runner.permit(num_steps)

    def let_go(self) -> None:
        """As many as any test has."""
        self.permit(10_000)

    async def finishes(self, num_sequences: int = 1) -> None:
        """Returns when so many sequences have ended by themselves and been handed over."""
        await eventually(lambda: self.engine.stats.num_finished == num_sequences and not self.engine.stats.num_running)

    async def drops_all(self) -> None:
        """Returns when nothing is left of any sequence so far, none of which came to its end."""
        await eventually(lambda: all(sampler.is_closed for sampler in self.runner.samplers))
        assert self.runner.samplers
        assert self.engine.stats.num_completion_tokens < 100

    async def still_answers(self) -> bool:
        async with asyncio.timeout(TIMEOUT):
            answer = await self.chat()
        return bool(answer["choices"][0]["message"]["content"] == "Hello!")

    async def _answer(self, route: str, body: Json) -> Json:
        async with asyncio.timeout(TIMEOUT):
            answer = await self.api.call(route, body)
        assert isinstance(answer, dict)
        return answer

    async def _stream(self, route: str, body: Json) -> EventStream:
        async with asyncio.timeout(TIMEOUT):
            answer = await self.api.call(route, {**body, "stream": True})
        assert isinstance(answer, EventStream)
        return answer


@contextmanager
def fake_worker(
    scripts: dict[str, str] | None = None,
    *,
    template: str | None = TEMPLATE,
    tool_use: str | None = None,
    max_queue: int = 16,
    num_slots: int = 4,
    num_cells: int = 1000,
    held: bool = False,
    specials: Iterable[str] = (),
    reasoning: ReasoningStyle = "split",
    doubles_reasoning: bool = False,
    adapters: tuple[str, ...] = (),
) -> Iterator[FakeWorker]:
    """Running, or `held`: each step waits for a permit. In the end nothing is left open. `tool_use` is its template
    for chats with tools, if it has a second one.

    `specials` are control tokens of its vocabulary, which has none but an end otherwise.
    """
    runner = FakeRunner({**SCRIPTS, **(scripts or {})}, num_slots=num_slots, num_cells=num_cells, specials=specials)
    if held:
        runner.hold()
    limits = Limits(num_slots, max_batch_tokens=64, max_prompt_tokens=16)
    engine = create_engine(runner, limits, max_queue=max_queue)
    names = ServedNames(NAMES, adapters)
    chat = ChatCompletions(
        engine,
        model_template(template, tool_use=tool_use, bos_token="", eos_token=""),
        names,
        reasoning=reasoning,
        doubles_reasoning=doubles_reasoning,
    )
    api = Api(chat, Completions(engine, names), Infills(engine, names), Tokens(engine, names), names)
    worker = FakeWorker(Worker(api, engine), runner)
    try:
        yield worker
    finally:
        if held:
            worker.let_go()
        if not runner.is_closed:
            engine.close()
    assert all(sampler.is_closed for sampler in runner.samplers)


def messages(text: str) -> Json:
    return {"messages": [{"role": "user", "content": text}]}


async def read(stream: EventStream) -> list[str]:
    """All items of a stream, each of which is whole events."""
    async with asyncio.timeout(TIMEOUT):
        items = [item async for item in stream]
    assert all(item.startswith("data: ") and item.endswith("\n\n") for item in items)
    return items


def events(text: str) -> list[Json]:
    """What is told in a stream that ends as it must."""
    assert text.endswith("\n\n")
    *told, done = text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    assert all(event.startswith("data: ") and "\n" not in event for event in told)
    return [json.loads(event.removeprefix("data: ")) for event in told]


def chat_chunks(items: list[str]) -> list[ChatCompletionChunk]:
    return [ChatCompletionChunk.model_validate(event) for event in events("".join(items))]


def completion_chunks(items: list[str]) -> list[CompletionChunk]:
    return [CompletionChunk.model_validate(event) for event in events("".join(items))]
