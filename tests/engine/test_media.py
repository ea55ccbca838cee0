"""Images in prompts, on a model without arithmetic: what is computed when, what is reused, and what is refused."""

import asyncio
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from handler.engine.cache import unified_cache
from handler.engine.engine import Engine
from handler.engine.media_encoder import MediaEncoder
from handler.engine.prompt import MediaPrompt
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.engine.speculative.speculation import DraftLimits, Speculation
from handler.errors import ContextLengthError, InvalidRequestError
from tests.engine.asking import ask, read
from tests.engine.fake_projector import FakeProjector, illustrated
from tests.engine.fakes import FakeRunner, MemoryKind, as_text, create_engine
from tests.seeds import seeds
from tests.waiting import eventually

SHORT = SamplingParams(max_tokens=8, num_logprobs=0)
KINDS: tuple[MemoryKind, ...] = ("full", "recurrent", "stubborn", "split")


@contextmanager
def seeing(runner: FakeRunner, projector: FakeProjector | None = None, **options: Any) -> Iterator[Engine]:
    limits = options.pop("limits", Limits(runner.num_slots, 16, 8))
    encoder = MediaEncoder(projector or FakeProjector())
    engine = create_engine(runner, limits, encoder=encoder, **options)
    try:
        yield engine
    finally:
        engine.close()
    assert not engine._loop._scheduler.has_work


async def alone(prompt: MediaPrompt, known: Iterable[bytes] = ()) -> str:
    """What an engine says whose cache is empty. It has seen these images, so that they have the same ids."""
    with seeing(FakeRunner()) as engine:
        await engine.tokenize(illustrated(*known))
        return (await ask(engine, prompt, SHORT)).text


@pytest.mark.parametrize("kind", KINDS)
async def test_usage_counts_positions(kind: MemoryKind) -> None:
    """An image has as many tokens as it takes places, and a second turn reuses all but its last token."""
    prompt = illustrated("look: ", b"twenty bytes of cat.", " what is it?")
    with seeing(FakeRunner(kind=kind)) as engine:
        first = await ask(engine, prompt, SHORT)
        second = await ask(engine, illustrated(*parts_of(prompt), first.text, " and then?"), SHORT)

    assert first.usage.num_prompt_tokens == 6 + 22 + 12
    assert (first.usage.num_cached_tokens, first.usage.num_completion_tokens) == (0, 8)
    assert second.usage.num_cached_tokens >= first.usage.num_prompt_tokens


def parts_of(prompt: MediaPrompt) -> list[str | bytes]:
    first, *rest = (text.text for text in prompt.texts)
    return [first, *(part for pair in zip(prompt.media, rest, strict=True) for part in pair)]


async def test_the_same_image_is_encoded_once() -> None:
    """In several prompts, and for all choices of one."""
    projector = FakeProjector()
    with seeing(FakeRunner(), projector) as engine:
        await ask(engine, illustrated(b"cat", "a"), SHORT)
        await ask(engine, illustrated("before ", b"cat", "b"), SHORT)
        await (await engine.generate([illustrated(b"cat", "c")], SHORT, n=3)).result()

        assert engine.state()["num_encoded_media"] == 1

    assert projector.encoded == [b"cat"]


async def test_other_images_share_nothing() -> None:
    """Two chats that differ in their image alone have the text before it in common, and no more."""
    with seeing(FakeRunner()) as engine:
        cat = await ask(engine, illustrated("look: ", b"cat", " what?"), SHORT)
        dog = await ask(engine, illustrated("look: ", b"dog", " what?"), SHORT)

    assert dog.usage.num_cached_tokens == len("look: [")
    assert cat.text != dog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_many_at_once(kind: MemoryKind) -> None:
    """Chats with and without images, in a cache that is too small for all: each gets its own text."""
    prompts = [
        illustrated(f"chat {number}: ", bytes([number]) * (5 + number), " and ", b"shared image", f" {number}?")
        for number in range(6)
    ]
    texts = [f"{number} without any image" for number in range(6)]
    known = list(dict.fromkeys(data for prompt in prompts for data in prompt.media))
    runner = FakeRunner(kind=kind, num_cells=4 * 64)
    with seeing(runner) as engine:
        await engine.tokenize(illustrated(*known))
        answers = await asyncio.gather(
            *(ask(engine, prompt, SHORT) for prompt in prompts), *(ask(engine, text, SHORT) for text in texts)
        )
        expected = [runner.answer(text, 8) for text in texts]

    assert [answer.text for answer in answers[6:]] == expected
    assert [answer.text for answer in answers[:6]] == [await alone(prompt, known) for prompt in prompts]


async def test_images_take_turns_with_tokens() -> None:
    """While another chat generates, at most every second step is an image's."""
    runner = FakeRunner()
    with seeing(runner) as engine:
        runner.hold()
        talking = await engine.generate(["talk"], SamplingParams(max_tokens=40))
        runner.permit(3)
        looking = await engine.generate([illustrated(b"cat", b"dog", b"cow", b"hen", "?")], SHORT)
        runner.permit(10_000)
        await asyncio.gather(read(talking), read(looking))

    steps = [event.split()[1:] for event in runner.events if event.startswith("step")]
    with_talk = [place for place, names in enumerate(steps) if "talk" in names]
    assert max(later - earlier for earlier, later in pairwise(with_talk)) <= 2


async def test_evicted_images_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off a cached conversation ends before an image or behind it."""
    monkeypatch.setattr(unified_cache, "MIN_TRIM", 1)
    runner = FakeRunner(num_cells=96, max_model_len=96)
    with seeing(runner) as engine:
        first = await ask(engine, illustrated("a", b"i" * 40, "b"), SHORT)
        await ask(engine, 70 * "x", SHORT)
        again = await ask(engine, illustrated("a", b"i" * 40, "b"), SHORT)

    assert again.text == first.text


async def test_drafts_have_no_images() -> None:
    """Prompt lookup ends before an image, and changes no text."""
    prompt = illustrated("say cheese ", b"cat", " and say cheese ", b"cat", " and say cheese ")
    runner = FakeRunner({})
    speculation = Speculation(PromptLookup(sizes=(2,)), DraftLimits(4, 8, 16))
    with seeing(runner, speculation=speculation) as engine:
        with_drafts = await ask(engine, prompt, SHORT)

    assert with_drafts.text == await alone(prompt)
    assert speculation.num_drafted_tokens


async def test_a_model_that_sees_nothing() -> None:
    """It refuses images."""
    engine = create_engine(FakeRunner())
    assert not engine.sees
    with pytest.raises(InvalidRequestError, match="text only"):
        await engine.generate([illustrated(b"cat", "?")], SHORT)
    engine.close()


async def test_refused_prompts() -> None:
    """An image at the end has no logits; one that is too long fits nowhere; nothing is left of either."""
    runner = FakeRunner(num_cells=100)
    runner.max_whole_run = 10
    with seeing(runner, FakeProjector(is_causal=False)) as engine:
        with pytest.raises(InvalidRequestError, match="10 are possible"):
            await engine.generate([illustrated(11 * b"i", "?")], SHORT)
        with pytest.raises(ContextLengthError):
            await engine.generate([illustrated(*(10 * [8 * b"i"]), 20 * "?")], SHORT)
        assert engine._admission.num_sequences == 0


async def test_counting() -> None:
    """The tokens of a prompt with images are counted as they are generated from."""
    with seeing(FakeRunner()) as engine:
        assert len(await engine.tokenize(illustrated("look: ", b"cat", "?"))) == 6 + 5 + 1


@pytest.mark.parametrize("seed", seeds())
async def test_random_orders(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations with images in any order, some of them left, in a cache that is too small for all: each text is the
    one of its own tokens, and every cell is accounted for at each step."""
    rng = random.Random(seed)
    images = [bytes([number]) * rng.randint(1, 12) for number in range(4)]
    monkeypatch.setattr(unified_cache, "MIN_TRIM", rng.choice([1, 256]))  # so that conversations lose parts too
    kind = rng.choice(KINDS)
    exact_grid = 4 if kind == "split" and rng.random() < 0.5 else 0
    runner = FakeRunner(kind=kind, num_slots=4, num_cells=4 * rng.choice([80, 120]), max_model_len=80)
    limits = Limits(rng.randint(1, 4), 24, 8, max_burst_tokens=rng.choice([0, 32]), exact_grid=exact_grid)
    speculation = Speculation(PromptLookup(sizes=(2, 1)), DraftLimits(4, 4, 24)) if rng.random() < 0.3 else None

    def prompt() -> MediaPrompt:
        parts: list[str | bytes] = [rng.choice(["system ", "", "other "])]
        for _ in range(rng.randint(0, 2)):
            parts += [rng.choice(images), rng.choice(["", "a", " and then "])]
        return illustrated(*parts, rng.choice(["?", "! what is it?"]))

    async def chat(engine: Engine) -> None:
        asked = prompt()
        params = SamplingParams(max_tokens=rng.randint(1, 12), seed=rng.choice([None, 1]))
        leaves = rng.random() < 0.2
        token_ids = await engine.tokenize(asked)
        generation = await engine.generate([asked], params)
        if leaves:
            generation.cancel()
            return
        answer = await read(generation)
        for _ in range(answer.usage.num_completion_tokens):
            token_ids.append(runner.next_token(token_ids))
        assert answer.text == as_text(token_ids[answer.usage.num_prompt_tokens :])

    with seeing(runner, limits=limits, speculation=speculation) as engine:
        for _ in range(3):
            await asyncio.gather(*(chat(engine) for _ in range(rng.randint(1, 5))))
        cache = engine._loop._scheduler.cache
        await eventually(lambda: not engine._loop._scheduler.has_work)
        cache.check_integrity()
        assert engine.is_healthy
