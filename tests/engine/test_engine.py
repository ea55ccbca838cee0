"""The border between asyncio and the engine thread: what readers get, whatever happens on the other side."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from handler.engine.constraint import Constraint
from handler.engine.engine import MAX_COMPILING, Engine
from handler.engine.engine_loop import MAX_FAILURES
from handler.engine.generation import Generation
from handler.engine.prompt import MixedText
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.sequence import FinishReason, SequenceOutput, SequenceUsage
from handler.engine.structured.grammar import NUM_COMPILERS, Grammar, GrammarCompiler
from handler.errors import (
    CacheFullError,
    ContextLengthError,
    DecodeError,
    EngineError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    WorkerError,
)
from tests.engine.fakes import TIMEOUT, ByteVocabulary, FakeRunner, create_engine

ENDLESS = SamplingParams(max_tokens=None)


@contextmanager
def running(runner: FakeRunner, *, max_queue: int = 16, max_batch_tokens: int = 64) -> Iterator[Engine]:
    """An engine, which in the end has nothing left open."""
    limits = Limits(runner.num_slots, max_batch_tokens=max_batch_tokens, max_prompt_tokens=16)
    engine = create_engine(runner, limits, max_queue=max_queue)
    try:
        yield engine
    finally:
        if not runner.is_closed:
            engine.close()
    assert engine._admission.num_sequences == 0
    assert all(sampler.is_closed for sampler in runner.samplers)


async def collect(generation: Generation) -> dict[int, SequenceOutput]:
    """Everything a generation gives, merged by sequence."""
    result: dict[int, SequenceOutput] = {}
    async with asyncio.timeout(TIMEOUT):
        async for outputs in generation:
            for index, output in outputs.items():
                result[index] = result[index].followed_by(output) if index in result else output
    return result


async def ask(engine: Engine, prompt: str, params: SamplingParams | None = None) -> SequenceOutput:
    return (await collect(await engine.generate([prompt], params or SamplingParams())))[0]


async def elsewhere(function: Callable[[], object]) -> None:
    """Wait for something that happens in another thread."""
    await asyncio.to_thread(function)


async def begin(engine: Engine, runner: FakeRunner, prompt: str) -> Generation:
    """An endless sequence whose first step has begun and is held."""
    generation = await engine.generate([prompt], ENDLESS)
    await elsewhere(runner.wait_for_step)
    return generation


async def test_generates() -> None:
    """A prompt gives its answer, the reason why it ended, and the count of its tokens."""
    with running(FakeRunner({"hi": "hello"})) as engine:
        output = await ask(engine, "hi")
    assert output.text == "hello"
    assert output.finish_reason is FinishReason.STOP
    assert output.usage == SequenceUsage(2, 0, 6)


async def test_prompt_may_be_tokens() -> None:
    """Token ids are taken as they are."""
    with running(FakeRunner({"hi": "hello"})) as engine:
        outputs = await collect(await engine.generate([list(b"hi")], SamplingParams()))
    assert outputs[0].text == "hello"


async def test_streams() -> None:
    """Each token can be read as soon as its step is over."""
    runner = FakeRunner({"hi": "abc"})
    runner.hold()
    with running(runner) as engine:
        generation = await engine.generate(["hi"], SamplingParams())
        texts = []
        for _ in range(4):
            runner.permit()
            texts.append((await anext(generation))[0].text)
        assert texts == ["a", "b", "c", ""]
        with pytest.raises(StopAsyncIteration):
            await anext(generation)


async def test_outputs_do_not_wait_for_a_step_that_never_comes() -> None:
    """What a step brought goes out with the next one; if that is called off, it goes out all the same."""
    runner = FakeRunner({"hi": ""})
    runner.hold()
    with running(runner) as engine:
        endless = await begin(engine, runner, "endless")
        ending = await engine.generate(["hi"], SamplingParams())
        runner.permit()
        await elsewhere(runner.wait_for_step)
        endless.cancel()
        runner.permit()
        assert (await collect(ending))[0].finish_reason is FinishReason.STOP


async def test_slow_reader_gets_everything_at_once() -> None:
    """Outputs that are not read yet are merged into one."""
    with running(FakeRunner({"hi": "hello", "other": "!"})) as engine:
        late = await engine.generate(["hi"], SamplingParams(num_logprobs=0))
        while late._num_unfinished:
            await ask(engine, "other")
        outputs = await anext(late)
    assert outputs[0].text == "hello"
    assert bytes(entry.token_id for entry in outputs[0].logprobs) == b"hello"
    assert outputs[0].usage == SequenceUsage(2, 0, 6)


async def test_several_prompts_and_choices_have_their_index() -> None:
    """Sequences are numbered prompt by prompt, and within a prompt choice by choice."""
    with running(FakeRunner({"a": "one", "b": "two"}, num_slots=2)) as engine:
        outputs = await collect(await engine.generate(["a", "b"], SamplingParams(), n=2))
    assert {index: output.text for index, output in outputs.items()} == {0: "one", 1: "one", 2: "two", 3: "two"}


async def test_choices_have_seeds_of_their_own() -> None:
    """Equal seeds would make all choices equal."""
    runner = FakeRunner({"a": "one"})
    with running(runner) as engine:
        generation = await engine.generate(["a"], SamplingParams(seed=7), n=3)
        await collect(generation)
    assert [sequence.params.seed for sequence in generation.sequences] == [7, 8, 9]


async def test_no_prompt_no_output() -> None:
    """An empty list of prompts is over at once."""
    with running(FakeRunner()) as engine:
        assert await collect(await engine.generate([], SamplingParams())) == {}


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("", InvalidRequestError, "empty"),
        ([], InvalidRequestError, "empty"),
        ([1, -1], InvalidRequestError, "not in the vocabulary"),
        ([1, 258], InvalidRequestError, "not in the vocabulary"),
        ("x" * 100, ContextLengthError, "100 tokens, but the prompt alone has 100"),
    ],
)
async def test_bad_prompts_are_refused(prompt: str | list[int], error: type[WorkerError], message: str) -> None:
    """A prompt that cannot be computed is refused before anything has started, and leaves no trace."""
    runner = FakeRunner({"hi": "hello"}, max_model_len=100)
    with running(runner, max_queue=0) as engine:
        for _ in range(10):
            with pytest.raises(error, match=message):
                await engine.generate(["hi", prompt], SamplingParams())
        assert runner.events == []
        assert (await ask(engine, "hi")).text == "hello"


async def test_full_queue_is_refused() -> None:
    """More sequences than may run and wait are refused at once, and accepted when there is room again."""
    runner = FakeRunner({"hi": "hello"}, num_slots=2)
    runner.hold()
    with running(runner, max_queue=1) as engine:
        generation = await engine.generate(["a", "b", "c"], ENDLESS)
        with pytest.raises(QueueFullError, match="3 sequences are running or waiting, and at most 3 may"):
            await engine.generate(["hi"], SamplingParams())
        generation.cancel()
        runner.let_go()
        await collect(generation)
        await elsewhere(until(lambda: engine._admission.num_sequences == 0, runner))
        assert (await ask(engine, "hi")).text == "hello"


def until(condition: Callable[[], bool], runner: FakeRunner) -> Callable[[], None]:
    """Something that comes true with one of the next steps, or between them."""

    def wait() -> None:
        met = threading.Event()
        for _ in range(int(TIMEOUT * 1000)):
            if condition():
                return
            met.wait(0.001)
        raise AssertionError(f"never came true; events: {runner.events}")

    return wait


async def test_cancel_frees_the_slot_within_one_step() -> None:
    """Cancelled while a step runs, a sequence is not in the next one, and its slot has the next to wait."""
    runner = FakeRunner(num_slots=1)
    runner.hold()
    with running(runner) as engine:
        first = await begin(engine, runner, "a")
        second = await engine.generate(["b"], SamplingParams(max_tokens=1))
        first.cancel()
        runner.permit(2)
        await collect(second)
        assert runner.events == ["step a", "close a", "step b", "close b"]


async def test_cancel_before_the_first_step() -> None:
    """A sequence that still waits is never computed."""
    runner = FakeRunner(num_slots=1)
    runner.hold()
    with running(runner) as engine:
        first = await begin(engine, runner, "a")
        waiting = await engine.generate(["b"], ENDLESS)
        waiting.cancel()
        first.cancel()
        runner.let_go()
    assert runner.events == ["step a", "close b", "close a"]


async def test_cancel_ends_the_iteration() -> None:
    """A reader that waits gets the end of the iteration; cancelling again, or too late, does nothing."""
    runner = FakeRunner({"hi": "hello"})
    runner.hold()
    with running(runner) as engine:
        generation = await begin(engine, runner, "a")
        reader = asyncio.create_task(collect(generation))
        await asyncio.sleep(0)
        generation.cancel()
        generation.cancel()
        assert await reader == {}
        runner.let_go()
        finished = await engine.generate(["hi"], SamplingParams())
        await collect(finished)
        finished.cancel()


async def test_outputs_after_cancel_are_dropped() -> None:
    """What came before the cancel can be read, what a step still brings is not shown."""
    runner = FakeRunner({"hi": "hello"})
    runner.hold()
    with running(runner) as engine:
        generation = await begin(engine, runner, "a")
        runner.permit()
        await elsewhere(runner.wait_for_step)  # the first one's output has come
        generation.cancel()
        runner.let_go()
        assert (await ask(engine, "hi")).text == "hello"
        assert await collect(generation) == {0: SequenceOutput(runner.answer("a", 1))}


async def test_clients_in_a_closed_loop() -> None:
    """More clients than slots, each asking again and again: every answer is right."""
    prompts = [f"client {index} " for index in range(12)]
    runner = FakeRunner(num_slots=4)
    params = SamplingParams(max_tokens=5)

    async def client(prompt: str) -> None:
        for turn in range(10):
            text = prompt + "again " * turn
            assert (await ask(engine, text, params)).text == runner.answer(text, 5)

    with running(runner) as engine:
        await asyncio.gather(*map(client, prompts))


async def test_decode_error_fails_the_batch_only() -> None:
    """Sequences of the failed step get an error; those that waited or come later are answered."""
    runner = FakeRunner({"bad": "x", "waiting": "fine", "next": "fine too"}, num_slots=1)
    runner.failures.append(DecodeError("llama_decode returned -3."))
    runner.hold()
    with running(runner) as engine:
        bad = await begin(engine, runner, "bad")
        waiting = await engine.generate(["waiting"], SamplingParams())
        runner.let_go()
        with pytest.raises(EngineError, match="failed to compute"):
            await collect(bad)
        assert (await collect(waiting))[0].text == "fine"
        assert (await ask(engine, "next")).text == "fine too"
        assert engine.is_healthy


async def test_error_ends_the_whole_generation() -> None:
    """When one of a request's sequences fails, the others are aborted."""
    runner = FakeRunner(num_slots=1)
    runner.failures.append(DecodeError("llama_decode returned -3."))
    with running(runner) as engine:
        generation = await engine.generate(["a", "b", "c"], ENDLESS)
        with pytest.raises(EngineError):
            await collect(generation)
        with pytest.raises(StopAsyncIteration):
            await anext(generation)


async def test_failures_in_a_row_make_it_unhealthy() -> None:
    """An engine that fails again and again is unhealthy, and no reader waits for it any more."""
    runner = FakeRunner(num_slots=1)
    runner.failures.extend([DecodeError("llama_decode returned -3.")] * MAX_FAILURES)
    runner.hold()
    with running(runner) as engine:
        generations = [await engine.generate([prompt], ENDLESS) for prompt in "abcde"]
        runner.let_go()
        results = await asyncio.gather(*map(collect, generations), return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 5
        assert not engine.is_healthy
        with pytest.raises(UnavailableError):
            await engine.generate(["f"], SamplingParams())


async def test_failures_apart_are_forgiven() -> None:
    """A step that works between two that fail starts the count again."""
    runner = FakeRunner({"good": "!"})
    with running(runner) as engine:
        for _ in range(MAX_FAILURES + 1):
            runner.failures.append(DecodeError("llama_decode returned -3."))
            with pytest.raises(EngineError):
                await ask(engine, "bad")
            assert (await ask(engine, "good")).text == "!"
        assert engine.is_healthy


async def test_full_cache_preempts_and_tries_again() -> None:
    """When llama.cpp finds no place though there should be one, the youngest is preempted, and all are answered."""
    runner = FakeRunner()
    params = SamplingParams(max_tokens=10)
    runner.hold()
    with running(runner) as engine:
        generation = await engine.generate(["aa", "bb"], params)
        await elsewhere(runner.wait_for_step)
        runner.failures.append(CacheFullError("No place."))
        runner.let_go()
        outputs = await collect(generation)
        assert [outputs[index].text for index in (0, 1)] == [runner.answer("aa", 10), runner.answer("bb", 10)]
        assert engine._loop._scheduler.num_preemptions == 1
        assert engine.is_healthy


@pytest.mark.parametrize("error", [ValueError("unforeseen"), AssertionError("a broken invariant")])
async def test_unforeseen_exception_ends_every_request(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """When the engine thread breaks down no reader hangs: all get an error, and new requests are refused."""
    runner = FakeRunner(num_slots=1)
    runner.failures.append(error)
    runner.hold()
    with running(runner) as engine, caplog.at_level(logging.CRITICAL):
        generations = [await engine.generate([prompt], ENDLESS) for prompt in "abc"]
        runner.let_go()
        results = await asyncio.gather(*map(collect, generations), return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 3
        assert not engine.is_healthy
        with pytest.raises(UnavailableError):
            await engine.generate(["d"], SamplingParams())


async def test_request_that_meets_a_breakdown_is_told() -> None:
    """A request accepted just before the engine broke down does not wait for ever."""
    runner = FakeRunner()
    runner.failures.append(ValueError("unforeseen"))
    runner.hold()
    with running(runner) as engine:
        first = await begin(engine, runner, "a")
        second = await engine.generate(["b"], ENDLESS)  # while the step that breaks runs
        runner.let_go()
        for generation in (first, second):
            with pytest.raises(EngineError):
                await collect(generation)


async def test_close_ends_what_is_not_finished() -> None:
    """Closing while sequences run and wait tells all their readers, and frees the model."""
    runner = FakeRunner(num_slots=1)
    runner.hold()
    with running(runner) as engine:
        generations = [await begin(engine, runner, "a"), await engine.generate(["b"], ENDLESS)]
        closing = asyncio.create_task(elsewhere(engine.close))
        await elsewhere(until(lambda: engine._loop._is_closing, runner))
        runner.let_go()
        await closing
        results = await asyncio.gather(*map(collect, generations), return_exceptions=True)
        assert [type(result) for result in results] == [UnavailableError] * 2
        assert runner.is_closed
        with pytest.raises(UnavailableError):
            await engine.generate(["c"], SamplingParams())


async def test_request_during_close_is_refused() -> None:
    """A request that comes while the last step runs is refused rather than left to hang."""
    runner = FakeRunner()
    runner.hold()
    with running(runner) as engine:
        generation = await begin(engine, runner, "a")
        closing = asyncio.create_task(elsewhere(engine.close))
        await elsewhere(until(lambda: engine._loop._is_closing, runner))
        with pytest.raises(UnavailableError):
            await engine.generate(["b"], SamplingParams())
        runner.let_go()
        await closing
        with pytest.raises(UnavailableError):
            await collect(generation)


async def test_model_outlives_the_last_tokenizer() -> None:
    """Closing waits for a request that is just being tokenized: it would use a model that is freed."""
    tokenizing, go_on = threading.Event(), threading.Event()

    class SlowTokenizer(FakeRunner):
        def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
            tokenizing.set()
            assert go_on.wait(TIMEOUT)
            assert not self.is_closed
            return super().tokenize(text)

    with running(runner := SlowTokenizer()) as engine:
        asking = asyncio.create_task(ask(engine, "a"))
        await elsewhere(lambda: tokenizing.wait(TIMEOUT))
        closing = asyncio.create_task(elsewhere(engine.close))
        await elsewhere(until(lambda: not engine._loop._thread.is_alive(), runner))
        assert not runner.is_closed
        go_on.set()
        with pytest.raises(UnavailableError):
            await asking
        await closing
        for sampler in runner.samplers:
            sampler.is_closed = True  # its sequence was never started: garbage collection frees it


async def test_cancelled_request_is_not_counted() -> None:
    """A task that is cancelled while its prompt is tokenized leaves nothing open."""
    tokenizing, go_on = threading.Event(), threading.Event()

    class SlowTokenizer(FakeRunner):
        def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
            tokenizing.set()
            assert go_on.wait(TIMEOUT)
            return []

    with running(SlowTokenizer()) as engine:
        asking = asyncio.create_task(ask(engine, "a"))
        await elsewhere(lambda: tokenizing.wait(TIMEOUT))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert engine._admission.num_sequences == 0
        go_on.set()


async def test_stats_add_up() -> None:
    """Counts of finished sequences are the sums of their usage."""
    runner = FakeRunner({"one": "1", "three": "333"})
    with running(runner) as engine:
        usages = [(await ask(engine, prompt)).usage for prompt in ("one", "three", "one")]
        await elsewhere(until(lambda: engine.stats.num_running == 0, runner))
        stats = engine.stats
    assert usages == [SequenceUsage(3, 0, 2), SequenceUsage(5, 0, 4), SequenceUsage(3, 2, 2)]
    assert (stats.num_finished, stats.num_prompt_tokens, stats.num_cached_tokens) == (3, 11, 2)
    assert stats.num_completion_tokens == 8
    assert (stats.num_waiting, stats.num_cached_slots, stats.num_used_cells) == (0, 3, 4 + 8 + 2)


async def test_two_event_loops_at_once() -> None:
    """The engine belongs to no loop: readers in two of them are served by the same steps."""
    runner = FakeRunner(num_slots=8)
    results: dict[str, str] = {}

    async def clients(name: str) -> None:
        prompts = [f"{name}{index}" for index in range(20)]
        outputs = await asyncio.gather(*(ask(engine, prompt, SamplingParams(max_tokens=20)) for prompt in prompts))
        results.update(zip(prompts, (output.text for output in outputs), strict=True))

    with running(runner, max_queue=100) as engine:
        threads = [threading.Thread(target=asyncio.run, args=(clients(name),)) for name in ("x", "y")]
        for thread in threads:
            thread.start()
        for thread in threads:
            await elsewhere(thread.join)
    assert len(results) == 40
    assert all(text == runner.answer(prompt, 20) for prompt, text in results.items())


async def test_closed_event_loop_frees_its_sequences() -> None:
    """When a loop is closed there is no reader: its sequences are aborted with their next output."""
    runner = FakeRunner({"hi": "hello"}, num_slots=1)
    runner.hold()

    def one_loop() -> None:
        asyncio.run(begin_and_leave())

    async def begin_and_leave() -> None:
        await begin(engine, runner, "a")

    with running(runner) as engine:
        await elsewhere(one_loop)
        runner.let_go()
        assert (await ask(engine, "hi")).text == "hello"
        assert runner.events[:3] == ["step a", "step a", "close a"]  # what the first brought goes with the second
    gc.collect()


class HeldCompiler(GrammarCompiler):
    """Compiles nothing until it may."""

    def __init__(self) -> None:
        super().__init__(ByteVocabulary())
        self.may_end = threading.Event()
        self.num_compiled = 0

    def compile(self, constraint: Constraint) -> Grammar:
        assert self.may_end.wait(TIMEOUT)
        self.num_compiled += 1
        return super().compile(constraint)


def constrained(number: int) -> SamplingParams:
    return SamplingParams(constraint=Constraint("schema", f'{{"maxLength": {number}}}'), max_tokens=1)


async def test_a_schema_waits_without_a_place() -> None:
    """As many as there are places wait for the compiler, and a request without one gets in."""
    schemas = HeldCompiler()
    engine = create_engine(FakeRunner({"hi": "there"}), schemas=schemas)
    tasks = [asyncio.create_task(engine.generate(["x"], constrained(number))) for number in range(30)]
    await asyncio.sleep(0)
    assert engine._admission.num_sequences == 0
    generation = await engine.generate(["hi"], SamplingParams())
    assert [output.text for output in await generation.result()] == ["there"]
    schemas.may_end.set()
    for task in tasks:
        (await task).cancel()
    engine.close()


async def test_too_many_schemas_wait() -> None:
    """One more is refused at once; one whose client has left is never compiled, and makes room."""
    schemas = HeldCompiler()
    engine = create_engine(FakeRunner(), schemas=schemas)
    tasks = [asyncio.create_task(engine.generate(["x"], constrained(number))) for number in range(MAX_COMPILING)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="constraints wait"):
        await engine.generate(["x"], constrained(1000))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    schemas.may_end.set()
    (await engine.generate(["x"], constrained(1000))).cancel()
    assert schemas.num_compiled <= NUM_COMPILERS + 1
    engine.close()


async def test_a_known_schema_does_not_wait() -> None:
    """It passes those that are compiled."""
    schemas = HeldCompiler()
    engine = create_engine(FakeRunner(), schemas=schemas)
    schemas.may_end.set()
    (await engine.generate(["x"], constrained(1))).cancel()
    schemas.may_end.clear()
    tasks = [asyncio.create_task(engine.generate(["x"], constrained(number))) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    (await engine.generate(["x"], constrained(1))).cancel()
    schemas.may_end.set()
    for task in tasks:
        (await task).cancel()
    engine.close()


async def test_a_slow_schema_holds_up_schemas_alone() -> None:
    """Requests without one are answered meanwhile."""
    may_end = threading.Event()

    class SlowCompiler(GrammarCompiler):
        def compile(self, constraint: Constraint) -> Grammar:
            assert may_end.wait(TIMEOUT)
            return super().compile(constraint)

    engine = create_engine(FakeRunner({"hi": "there"}), schemas=SlowCompiler(ByteVocabulary()))
    slow = [
        asyncio.create_task(engine.generate(["x"], SamplingParams(constraint=constraint, max_tokens=1)))
        for constraint in [Constraint("schema", f'{{"maxLength": {length}}}') for length in range(40)]
    ]
    await asyncio.sleep(0)
    generation = await engine.generate(["hi"], SamplingParams())
    assert [output.text for output in await generation.result()] == ["there"]
    may_end.set()
    for task in slow:
        (await task).cancel()
    engine.close()
