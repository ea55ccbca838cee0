"""Images in prompts, on a model without arithmetic: what is computed when, what is reused, and what is refused."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

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
from tests.engine.fakes import FakeRunner, MemoryKind, create_engine

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


async def test_evicted_images_are_computed_again() -> None:
    """What is cut off a cached conversation ends before an image or behind it."""
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
    assert not engine.reads_images
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
