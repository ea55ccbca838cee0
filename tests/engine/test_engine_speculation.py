"""Drafts in the engine: what becomes of them when a step fails, and what is counted."""

from collections.abc import Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager

import pytest

from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason, Sequence
from handler.engine.speculative.speculation import DraftLimits, Speculation
from handler.errors import CacheFullError, DecodeError, EngineError
from tests.engine.asking import ask
from tests.engine.fake_drafters import FakeDrafter, RightDrafter
from tests.engine.fakes import FakeRunner, create_engine

SCRIPTS = {"Hi>": "Hello to you all!", "Go>": "As far as it goes"}
ANSWERS = {tuple(prompt.encode()): list(answer.encode()) for prompt, answer in SCRIPTS.items()}


@contextmanager
def open_engine(drafter: FakeDrafter) -> Iterator[Engine]:
    runner = FakeRunner(SCRIPTS)
    engine = create_engine(runner, speculation=Speculation(drafter, DraftLimits(4, 8, 64)))
    yield engine
    engine.close()
    assert runner.is_closed
    assert drafter.is_closed


def fake_runner(engine: Engine) -> FakeRunner:
    assert isinstance(engine.runner, FakeRunner)
    return engine.runner


async def test_drafts_are_counted() -> None:
    """Those made, and those that were right."""
    with open_engine(RightDrafter(ANSWERS)) as engine:
        answer = await ask(engine, "Hi>", SamplingParams())
        assert (answer.text, answer.finish_reason) == (SCRIPTS["Hi>"], FinishReason.STOP)
        assert answer.usage.num_completion_tokens == len(SCRIPTS["Hi>"]) + 1
    num_steps = len([event for event in fake_runner(engine).events if event.startswith("step")])
    num_drawn = len(SCRIPTS["Hi>"]) + 1 - num_steps  # each step gives one token that was not drafted
    assert engine.stats.num_drafted_tokens == engine.stats.num_accepted_tokens == num_drawn
    assert num_steps == 4


async def test_a_batch_that_does_not_fit_is_tried_without_drafts() -> None:
    """No sequence is preempted for them, and the next step is scheduled without drafts."""
    with open_engine(RightDrafter(ANSWERS)) as engine:
        fake_runner(engine).failures.extend([None, CacheFullError("full")])
        answer = await ask(engine, "Hi>", SamplingParams())
        assert answer.text == SCRIPTS["Hi>"]
    assert engine.stats.num_preemptions == 0


async def test_a_drafter_that_breaks() -> None:
    """Is a step that failed: its sequences get an error, later ones are answered."""

    class Broken(RightDrafter):
        is_broken = True

        def propose(self, sequences: List[Sequence], max_tokens: List[int]) -> list[list[int]]:
            if self.is_broken:
                self.is_broken = False
                raise DecodeError("llama_decode returned -3.")
            return super().propose(sequences, max_tokens)

    with open_engine(Broken(ANSWERS)) as engine:
        with pytest.raises(EngineError, match="failed to compute"):
            await ask(engine, "Hi>", SamplingParams())
        assert (await ask(engine, "Go>", SamplingParams())).text == SCRIPTS["Go>"]
        assert engine.is_healthy


@pytest.mark.parametrize("num_read", [0, 1])
async def test_cancelled(num_read: int) -> None:
    """The drafter forgets it."""
    drafter = RightDrafter({tuple(b"endless"): list(b"abc") * 100})
    with open_engine(drafter) as engine:
        generation = await engine.generate(["endless"], SamplingParams())
        for _ in range(num_read):
            await anext(generation)
        generation.cancel()
        await ask(engine, "Hi>", SamplingParams(max_tokens=1))
    assert set(generation.sequences) <= set(drafter.forgotten)
