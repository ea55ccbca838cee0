"""Outputs on their way to event loops."""

import asyncio

from handler.engine.generation import Generation
from handler.engine.outbox import Outbox
from handler.engine.sequence import Sequence, SequenceOutput
from tests.engine.fakes import FakeRunner
from tests.engine.test_scheduler import create_sequence


async def open_generation() -> tuple[Generation, Sequence]:
    sequence = create_sequence(FakeRunner(), "hi")
    return Generation([sequence], abort=lambda _: None), sequence


async def test_nothing_leaves_before_the_flush() -> None:
    """Then all of it, merged by the reader."""
    outbox = Outbox()
    generation, sequence = await open_generation()
    for text in "ab":
        outbox.put(generation, sequence, SequenceOutput(text))
    await asyncio.sleep(0)
    assert not generation._pending
    assert not outbox.flush()
    assert outbox.is_empty
    assert await anext(generation) == {0: SequenceOutput("ab")}


def test_a_closed_loop_is_reported() -> None:
    """Once for each generation that nothing reads any more."""
    outbox = Outbox()
    generation, sequence = asyncio.run(open_generation())
    for text in "ab":
        outbox.put(generation, sequence, SequenceOutput(text))
    assert outbox.flush() == {generation}
    assert outbox.is_empty
