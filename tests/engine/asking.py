"""Asking an engine, and all that comes of a sequence."""

import asyncio
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handler.engine.engine import Engine
from handler.engine.generation import Generation
from handler.engine.logprobs import TokenLogprob
from handler.engine.prompt import Prompt
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason, SequenceUsage

TIMEOUT = 30.0  # seconds until a test that hangs fails
GREEDY = SamplingParams(temperature=0, max_tokens=24, num_logprobs=0)
TIE = 1e-3  # a lead that rounding might turn around


class Answer(NamedTuple):
    """All that came of one sequence."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None
    usage: SequenceUsage

    @property
    def token_ids(self) -> list[int]:
        return [entry.token_id for entry in self.logprobs]

    @property
    def distributions(self) -> npt.NDArray[np.float64]:
        """A row of logprobs in the order of the vocabulary for each token, if all of them were asked for."""
        return np.array([[entry.logprob for entry in sorted(step.top)] for step in self.logprobs])


async def ask(engine: Engine, prompt: Prompt, params: SamplingParams = GREEDY) -> Answer:
    return await read(await engine.generate([prompt], params))


async def ask_all(engine: Engine, prompts: list[str], params: SamplingParams = GREEDY) -> list[Answer]:
    return list(await asyncio.gather(*(ask(engine, prompt, params) for prompt in prompts)))


async def ask_one_by_one(engine: Engine, prompts: list[str], params: SamplingParams = GREEDY) -> list[Answer]:
    """Each alone, in a cache that has nothing to reuse."""
    answers = []
    for prompt in prompts:
        await forget(engine)
        answers.append(await ask(engine, prompt, params))
    return answers


async def forget(engine: Engine) -> None:
    """Empty the cache of an idle engine, in its own thread."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reset() -> None:
        engine._loop._scheduler.cache.reset()
        loop.call_soon_threadsafe(done.set)

    engine._loop._inbox.put(reset)
    async with asyncio.timeout(TIMEOUT):
        await done.wait()


async def read(generation: Generation) -> Answer:
    text = ""
    logprobs: list[TokenLogprob] = []
    finish_reason, usage = None, SequenceUsage(0, 0, 0)
    async with asyncio.timeout(TIMEOUT):
        async for outputs in generation:
            for output in outputs.values():
                text += output.text
                logprobs += output.logprobs
                finish_reason, usage = output.finish_reason, output.usage or usage
    return Answer(text, tuple(logprobs), finish_reason, usage)


def assert_same_tokens(answer: Answer, reference: Answer) -> None:
    """Equal, up to where the reference's two best tokens are too close to call; it knows its two best."""
    leads = [step.top[0].logprob - step.top[1].logprob for step in reference.logprobs]
    end = next((index for index, lead in enumerate(leads) if lead < TIE), len(leads))
    assert answer.token_ids[:end] == reference.token_ids[:end]
