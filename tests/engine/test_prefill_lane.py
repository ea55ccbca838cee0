"""Prompts that are computed beside the running sequences: which, in what order, and what becomes of them."""

import threading
from collections.abc import Iterator
from contextlib import closing
from queue import SimpleQueue

import pytest

from handler.engine.cache.split_cache import SplitCache
from handler.engine.part_size import FixedPartSize
from handler.engine.prefill_lane import MIN_TOKENS, NoPrefillLane, PrefillLane
from handler.engine.prefill_queue import Piece, Prefill
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import Sequence
from handler.errors import DecodeError, ModelError
from tests.engine.fakes import TIMEOUT, FakeRunner, create_engine
from tests.engine.test_scheduler import create_sequence

PART = 32
LONG, SHORT = "l" * 10 * PART, "s" * 2 * PART


class FakeContext:
    """Its states are the tokens themselves. `computed` has the first token and the length of each piece, by part."""

    num_streams = 4
    num_cells = 2000
    part_tokens = PART
    max_tokens = 1000
    is_16bit = False

    def __init__(self) -> None:
        self.computed: list[list[tuple[str, int]]] = []
        self.fails = False
        self.is_closed = False
        self.permits = threading.Semaphore(1_000_000)
        self.begun: SimpleQueue[None] = SimpleQueue()
        self._streams: dict[int, list[int]] = {}

    def compute(self, pieces: list[Piece]) -> None:
        self.begun.put(None)
        assert self.permits.acquire(timeout=TIMEOUT), "no permit came"
        if self.fails:
            raise DecodeError("It is broken.")
        assert sum(len(piece.token_ids) for piece in pieces) <= self.part_tokens
        for _, stream, start, token_ids in pieces:
            held = self._streams.setdefault(stream, [])
            if start == 0:
                held.clear()
            assert start == len(held), "a gap in the positions, or a position twice"
            held += token_ids
        assert sum(map(len, self._streams.values())) <= self.num_cells
        self.computed.append([(chr(piece.token_ids[0]), len(piece.token_ids)) for piece in pieces])

    def state(self, stream: int) -> list[int]:
        return self._streams.pop(stream)

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True


class HandLane(NoPrefillLane):
    """Takes every prompt, and finishes one when it is told to."""

    def __init__(self) -> None:
        self.submitted: list[Prefill] = []
        self._finished: list[Prefill] = []

    def takes(self, num_tokens: int) -> bool:
        return num_tokens >= MIN_TOKENS

    def submit(self, prefill: Prefill) -> None:
        self.submitted.append(prefill)

    def finish(self, number: int, *, is_good: bool = True) -> None:
        prefill = self.submitted[number]
        prefill.state = prefill.token_ids if is_good else None
        self._finished.append(prefill)

    def take_finished(self) -> list[Prefill]:
        finished, self._finished = self._finished, []
        return finished


class Stage:
    """A scheduler on a fake model, and a lane that is moved by hand."""

    def __init__(self, max_num_seqs: int = 4, max_burst_tokens: int = 0) -> None:
        num_slots = max_num_seqs + 2
        self.runner = FakeRunner(kind="split", num_slots=num_slots, num_cells=num_slots * 500, max_model_len=500)
        self.lane = HandLane()
        cache = SplitCache(self.runner.memory, num_slots=num_slots, num_cells=num_slots * 500)
        self.scheduler = Scheduler(cache, Limits(max_num_seqs, 64, 16, max_burst_tokens=max_burst_tokens), self.lane)

    def add(self, prompt: str, max_tokens: int = 50) -> Sequence:
        sequence = create_sequence(self.runner, prompt, max_tokens=max_tokens)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[Sequence]:
        batch = self.scheduler.schedule()
        if batch.items:
            self.scheduler.postprocess(batch, self.runner.run(batch))
        self.scheduler.cache.check_integrity()
        return [item.sequence for item in batch.items]

    def steps_to_generate(self, sequence: Sequence) -> None:
        while sequence.num_completion_tokens < 2:
            self.step()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def answer(sequence: Sequence) -> str:
    return bytes(sequence.token_ids[sequence.num_prompt_tokens :]).decode()


# What the scheduler does with it


def test_a_prompt_goes_to_the_lane_while_others_generate(stage: Stage) -> None:
    """The batch has the running sequence alone until the prompt's state is handed over."""
    first = stage.add("hello")
    stage.steps_to_generate(first)
    second = stage.add(LONG)

    assert [stage.step(), stage.step()] == [[first], [first]]
    [prefill] = stage.lane.submitted
    assert prefill.token_ids == second.token_ids[: len(LONG) - 1]
    stage.lane.finish(0)

    assert stage.step() == [first, second]
    assert second.num_completion_tokens == 1
    while second.num_completion_tokens < 5:
        stage.step()
    assert answer(second) == stage.runner.answer(LONG, 5)


def test_first_prompts_of_one_length_are_computed_together(stage: Stage) -> None:
    """Nothing generates yet that they could disturb, and they are one part."""
    stage.add(LONG)
    stage.add(LONG.upper())
    stage.step()

    assert stage.lane.submitted == []


def test_a_rush_of_different_prompts_goes_to_the_lane(stage: Stage) -> None:
    """The first to be finished answers while the others are computed."""
    long, short = stage.add(LONG), stage.add(SHORT)
    assert stage.step() == []
    stage.lane.finish(1)

    assert [stage.step(), stage.step()] == [[short], [short]]
    stage.lane.finish(0)
    stage.steps_to_generate(long)
    assert answer(long) == stage.runner.answer(LONG, long.num_completion_tokens)


def test_in_a_rush_steps_wait_for_several_prompts() -> None:
    """So the lane has the device; but not for more than a quarter of a burst's tokens, and not after the rush."""
    stage = Stage(max_num_seqs=16, max_burst_tokens=4000)
    sequences = [stage.add(f"{number:x}" * (100 + number)) for number in range(16)]
    assert stage.step() == []

    stage.lane.finish(0)
    assert stage.step() == []
    stage.lane.finish(1)
    assert stage.step() == sequences[:2]

    stage.lane.finish(2)
    assert stage.step() == []
    stage.lane.num_computed_tokens += 1000
    assert stage.step() == sequences[:3]
    assert stage.step() == []

    for number in range(3, 13):
        stage.lane.finish(number)
    assert [len(stage.step()), len(stage.step())] == [13, 13]


def test_a_short_prompt_stays_with_the_others(stage: Stage) -> None:
    """A hand-over would take longer."""
    stage.steps_to_generate(stage.add("hello"))
    stage.add("s" * MIN_TOKENS)
    stage.step()

    assert stage.lane.submitted == []


def test_a_prompt_whose_beginning_is_cached_stays_with_the_others(stage: Stage) -> None:
    """The lane would compute all of it."""
    stage.steps_to_generate(stage.add(SHORT + SHORT))
    stage.add(SHORT + SHORT + "and a question" * 10)
    stage.step()

    assert stage.lane.submitted == []


def test_a_seeded_prompt_keeps_to_the_others_weights(stage: Stage) -> None:
    """Where the lane computes with others, its text would depend on where there was room."""
    stage.lane.is_exact = False
    stage.steps_to_generate(stage.add("hello"))
    stage.scheduler.add(create_sequence(stage.runner, LONG, max_tokens=50, seed=7))
    stage.step()
    assert stage.lane.submitted == []

    stage.lane.is_exact = True
    stage.scheduler.add(create_sequence(stage.runner, LONG, max_tokens=50, seed=7))
    stage.step()
    assert len(stage.lane.submitted) == 1


def test_a_prefill_that_failed_is_computed_with_the_others(stage: Stage) -> None:
    """Its text is right all the same."""
    stage.steps_to_generate(stage.add("hello"))
    second = stage.add(SHORT)
    stage.step()
    stage.lane.finish(0, is_good=False)
    stage.steps_to_generate(second)

    assert answer(second) == stage.runner.answer(SHORT, second.num_completion_tokens)


def test_only_the_lane_has_work(stage: Stage) -> None:
    """The batch is empty then, and not before."""
    first = stage.add("hello", max_tokens=3)
    stage.steps_to_generate(first)
    second = stage.add(LONG)
    while not first.is_finished:
        stage.step()

    assert stage.step() == []
    assert stage.scheduler.has_work
    stage.lane.finish(0)
    assert stage.step() == [second]


def test_an_aborted_sequence_is_cancelled_in_the_lane(stage: Stage) -> None:
    """What comes all the same is dropped, whichever sequence has the slot by then."""
    stage.steps_to_generate(stage.add("hello"))
    second = stage.add(LONG)
    stage.step()
    stage.scheduler.abort(second)
    third = stage.add(SHORT)
    stage.step()

    assert [prefill.is_cancelled for prefill in stage.lane.submitted] == [True, False]
    stage.lane.finish(0)
    stage.lane.finish(1)
    stage.steps_to_generate(third)
    assert answer(third) == stage.runner.answer(SHORT, third.num_completion_tokens)


# What the lane does


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


@pytest.fixture
def lane(context: FakeContext) -> Iterator[PrefillLane]:
    with closing(PrefillLane(context, FixedPartSize(PART))) as lane:
        yield lane
    assert context.is_closed


def prefill_of(prompt: str) -> Prefill:
    token_ids = list(prompt.encode())
    runner = FakeRunner()
    return Prefill(create_sequence(runner, prompt), token_ids)


class Opening:
    """A successor, which there is room for once the other context is closed; or never."""

    def __init__(self, context: FakeContext | None, former: FakeContext) -> None:
        self._context = context
        self._former = former

    def open(self) -> FakeContext:
        assert self._former.is_closed
        if self._context is None:
            raise ModelError("There is no room.")
        return self._context

    def close(self) -> None:
        if self._context:
            self._context.close()


class Waker:
    def __init__(self) -> None:
        self._woken: SimpleQueue[None] = SimpleQueue()

    def __call__(self) -> None:
        self._woken.put(None)

    def wait(self, lane: PrefillLane, number: int) -> list[Prefill]:
        finished: list[Prefill] = []
        while len(finished) < number:
            self._woken.get(timeout=TIMEOUT)
            finished += lane.take_finished()
        return finished


def test_a_short_prompt_passes_a_long_one(lane: PrefillLane, context: FakeContext) -> None:
    """The one that has less left goes first."""
    waker = Waker()
    long, short = prefill_of(LONG), prefill_of(SHORT)
    context.permits = threading.Semaphore(0)
    lane.start(waker)
    lane.submit(long)
    context.begun.get(timeout=TIMEOUT)
    lane.submit(short)
    context.permits.release(1000)

    assert waker.wait(lane, 2) == [short, long]
    assert (short.state, long.state) == (short.token_ids, long.token_ids)
    assert len(context.computed) == 12


def test_more_prompts_than_streams(lane: PrefillLane) -> None:
    """All of them come, each with its own state."""
    waker = Waker()
    prefills = [prefill_of(chr(ord("a") + number) * (50 + 7 * number)) for number in range(9)]
    lane.start(waker)
    for prefill in prefills:
        lane.submit(prefill)
    finished = waker.wait(lane, 9)

    assert {id(prefill) for prefill in finished} == {id(prefill) for prefill in prefills}
    assert all(prefill.state == prefill.token_ids for prefill in prefills)


def test_a_cancelled_prompt_is_not_computed_on(lane: PrefillLane, context: FakeContext) -> None:
    """At most the part that has begun."""
    waker = Waker()
    long, short = prefill_of(LONG), prefill_of(SHORT)
    context.permits = threading.Semaphore(0)
    lane.start(waker)
    lane.submit(long)
    context.begun.get(timeout=TIMEOUT)
    long.is_cancelled = True
    lane.submit(short)
    context.permits.release(1000)

    assert waker.wait(lane, 1) == [short]
    assert [piece for part in context.computed for piece in part].count(("l", PART)) == 1


def test_a_successor_takes_over_once_the_prompts_are_done(lane: PrefillLane, context: FakeContext) -> None:
    """Which have their streams in the other; those that come later wait for it."""
    waker, successor = Waker(), FakeContext()
    before, after = prefill_of(LONG), prefill_of(SHORT)
    context.permits = threading.Semaphore(0)
    lane.start(waker)
    lane.submit(before)
    context.begun.get(timeout=TIMEOUT)
    lane.replace(Opening(successor, context))
    lane.submit(after)
    context.permits.release(1000)

    assert waker.wait(lane, 2) == [before, after]
    assert context.is_closed
    assert {piece for part in successor.computed for piece in part} == {("s", PART)}
    lane.close()
    assert successor.is_closed
    lane.context = FakeContext()  # for the fixture, which closes the lane too


@pytest.mark.parametrize("is_early", [True, False])
def test_a_successor_for_nothing_is_closed(context: FakeContext, is_early: bool) -> None:
    """The engine was closed while it was prepared, or never began."""
    lane, successor = PrefillLane(context, FixedPartSize(PART)), FakeContext()
    if is_early:
        lane.replace(Opening(successor, context))
        lane.close()
    else:
        lane.close()
        lane.replace(Opening(successor, context))

    assert successor.is_closed


def test_a_successor_without_room(lane: PrefillLane, context: FakeContext) -> None:
    """Prompts come back without a state from then on, and are computed with the others."""
    waker = Waker()
    lane.start(waker)
    lane.replace(Opening(None, context))
    lane.submit(prefill := prefill_of(SHORT))

    assert waker.wait(lane, 1) == [prefill]
    assert prefill.state is None
    assert context.is_closed


def test_a_failure_is_told(lane: PrefillLane, context: FakeContext) -> None:
    """Without a state; the lane goes on."""
    waker = Waker()
    context.fails = True
    lane.start(waker)
    lane.submit(broken := prefill_of(SHORT))
    assert waker.wait(lane, 1) == [broken]
    assert broken.state is None

    context.fails = False
    lane.submit(good := prefill_of(SHORT))
    assert waker.wait(lane, 1)[0].state == good.token_ids


async def test_an_engine_with_a_lane(context: FakeContext) -> None:
    """Texts are those of an engine without one, also of prompts that come when nothing else runs any more."""
    runner = FakeRunner(kind="split", num_slots=6, num_cells=6 * 500, max_model_len=500)
    engine = create_engine(runner, Limits(4, 64, 16), lane=PrefillLane(context, FixedPartSize(PART)))
    try:
        generations = []
        for number in range(12):
            prompt = f"{number}" + (LONG if number % 3 else "short")
            generations.append((prompt, await engine.generate([prompt], SamplingParams(max_tokens=5 + number))))
        for number, (prompt, generation) in enumerate(generations):
            [output] = await generation.result()
            assert output.text == runner.answer(prompt, 5 + number)
    finally:
        engine.close()


def test_parts_are_large_while_nothing_generates(context: FakeContext) -> None:
    """And in a rush; beside running sequences they are as large as their gaps allow."""
    waker = Waker()
    with closing(PrefillLane(context, FixedPartSize(PART // 4))) as lane:
        lane.start(waker)
        for num_generating in (0, 4, 3):  # with one prompt in the lane, 3 are less than a quarter of it
            lane.begin_step(num_generating, num_generating)
            lane.submit(prefill_of("x" * PART))
            waker.wait(lane, 1)
            lane.end_step()

    assert [[length for _, length in part] for part in context.computed] == [[PART], *[[PART // 4]] * 4, [PART]]


def test_steps_are_quiet_if_no_part_runs_within_them(context: FakeContext) -> None:
    """Their times teach how large parts may be."""
    noted: list[tuple[float, bool]] = []

    class Noting(FixedPartSize):
        def note(self, num_rows: int, seconds: float, *, is_quiet: bool) -> None:
            noted.append((seconds, is_quiet))

    waker, times = Waker(), iter([0.0, 1.0, 10.0, 12.0])
    with closing(PrefillLane(context, Noting(PART), lambda: next(times))) as lane:
        lane.start(waker)
        lane.begin_step(4, 4)
        lane.end_step()
        lane.begin_step(4, 4)
        lane.submit(prefill_of("x" * PART))
        waker.wait(lane, 1)
        lane.end_step()

    assert noted == [(1.0, True), (2.0, False)]


def test_parts_wait_for_a_quiet_step_that_is_wanted(context: FakeContext) -> None:
    """And go on after it."""
    noted: list[bool] = []
    asked = threading.Event()

    class Wanting(FixedPartSize):
        def wants_quiet(self, num_rows: int) -> bool:
            return not any(noted)

        def note(self, num_rows: int, seconds: float, *, is_quiet: bool) -> None:
            noted.append(is_quiet)

    class Pausing(PrefillLane):
        def _pause(self) -> None:
            asked.set()
            super()._pause()

    waker = Waker()
    with closing(Pausing(context, Wanting(PART))) as lane:
        lane.begin_step(4, 4)
        lane.submit(prefill_of("x" * PART))
        lane.start(waker)
        assert asked.wait(TIMEOUT)
        assert not context.computed
        lane.end_step()
        lane.begin_step(4, 4)
        waker.wait(lane, 1)

    assert noted == [True]
    assert len(context.computed) == 1


def test_parts_of_a_rush_teach_nothing(context: FakeContext) -> None:
    """They are larger than those whose size is learned."""
    noted: list[bool] = []

    class Noting(FixedPartSize):
        def note(self, num_rows: int, seconds: float, *, is_quiet: bool) -> None:
            noted.append(is_quiet)

    waker = Waker()
    with closing(PrefillLane(context, Noting(PART))) as lane:
        lane.start(waker)
        for num_generating in (3, 4):  # with one prompt in the lane, 3 are less than four for each
            lane.begin_step(num_generating, num_generating)
            lane.submit(prefill_of("x" * PART))
            waker.wait(lane, 1)
            lane.end_step()

    assert noted == [False]
