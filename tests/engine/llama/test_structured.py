"""Models of random weights under a schema: what they write is valid, so it is the grammar that makes it so."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handler.api.constraints import schema_constraint
from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason
from tests.engine.asking import Answer, ask, ask_all, forget, read
from tests.engine.llama.tiny_engine import open_engine
from tests.tiny_models import Architecture

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["hello", "world", "of the"]},
        "is_it": {"type": "boolean"},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 99}, "maxItems": 3},
        "inner": {
            "type": "object",
            "properties": {"word": {"type": "string", "pattern": "^(é|[a-z]){2,5}$"}},
            "additionalProperties": False,
        },
    },
    "required": ["name", "kind", "is_it", "scores"],
    "additionalProperties": False,
}
PLAIN = SamplingParams(max_tokens=400, num_logprobs=0, constraint=schema_constraint(SCHEMA))
HOT = replace(PLAIN, temperature=1.5)
KINDS = {
    "hot": HOT,
    "greedy": replace(PLAIN, temperature=0, repeat_penalty=1.2),
    "seeded": replace(HOT, seed=3),
    "biased": replace(HOT, logit_bias=((20, 90.0), (2, 100.0), (4, 100.0))),  # end tokens among them
    "endless": replace(HOT, ignore_eos=True),
    "everything": replace(HOT, top_k=0, top_p=1.0, min_p=0.0),
    "typical": replace(HOT, top_k=0, typical_p=0.7),
    "typical of few": replace(HOT, typical_p=0.7),
    "dry": replace(HOT, dry_multiplier=0.8),
    "penalised": replace(HOT, repeat_penalty=1.3, frequency_penalty=1.0, presence_penalty=1.0),
}

OpenEngine = Callable[..., Engine]


@pytest.fixture
def open_tiny(tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[OpenEngine]:
    """They are closed after the test, and must have nothing left then."""
    with ExitStack() as stack:
        yield lambda architecture="llama", **config: stack.enter_context(
            open_engine(tiny_model_paths[architecture], **config)
        )


def assert_valid(answer: Answer) -> None:
    """A complete answer that follows SCHEMA, or the beginning of one that was cut off."""
    if answer.finish_reason is FinishReason.LENGTH:
        assert answer.text.startswith("{")
        return
    assert answer.finish_reason is FinishReason.STOP
    assert_follows(json.loads(answer.text))


def assert_follows(value: Any) -> None:
    assert set(SCHEMA["required"]) <= set(value) <= set(SCHEMA["properties"])  # type: ignore[call-overload]  # JSON
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 12
    assert value["kind"] in ("hello", "world", "of the")
    assert value["is_it"] in (True, False)
    assert len(value["scores"]) <= 3
    assert all(isinstance(score, int) and -9 <= score <= 99 for score in value["scores"])
    word = value.get("inner", {}).get("word", "éé")
    assert 2 <= len(word) <= 5
    assert all(letter == "é" or "a" <= letter <= "z" for letter in word)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])  # byte-level BPE; byte tokens; a state alone
@pytest.mark.parametrize("params", KINDS.values(), ids=KINDS)
async def test_every_answer_follows_its_schema(
    architecture: Architecture, params: SamplingParams, open_tiny: OpenEngine
) -> None:
    """However it is drawn, in whichever vocabulary; ends before the grammar does are not drawn."""
    engine = open_tiny(architecture)
    answers = await ask_all(engine, [f"hello {number}" for number in range(6)], params)
    assert FinishReason.STOP in [answer.finish_reason for answer in answers]
    for answer in answers:
        assert_valid(answer)


async def test_choices_of_one_request(open_tiny: OpenEngine) -> None:
    """Each goes its own way through the one grammar."""
    engine = open_tiny()
    generation = await engine.generate(["hello"], replace(HOT, seed=1), n=4)
    outputs = await generation.result()
    assert all(output.finish_reason is FinishReason.STOP for output in outputs)
    assert len({output.text for output in outputs}) == 4
    for output in outputs:
        assert_follows(json.loads(output.text))


async def test_beside_answers_without_a_schema(open_tiny: OpenEngine) -> None:
    """Their greedy texts are those that they have alone."""
    engine = open_tiny()
    free = SamplingParams(temperature=0, max_tokens=60, num_logprobs=0)
    alone = await ask(engine, "the world", free)
    await forget(engine)
    bound, beside, other = await asyncio.gather(
        ask(engine, "hello", HOT), ask(engine, "the world", free), ask(engine, "on", HOT)
    )
    assert beside.token_ids == alone.token_ids
    assert_valid(bound)
    assert_valid(other)


async def test_preemption_and_reuse_change_nothing(open_tiny: OpenEngine) -> None:
    """A preempted answer continues where its grammar was."""
    engine = open_tiny(n_ctx=256)
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
    params = replace(PLAIN, temperature=0, max_tokens=120, constraint=schema_constraint(numbers))
    prompts = [f"{number} hello world and the rest of it" for number in range(4)]
    alone = []
    for prompt in prompts:
        await forget(engine)
        alone.append(await ask(engine, prompt, params))
    await forget(engine)
    together = await ask_all(engine, prompts, params)
    assert engine._loop._scheduler.num_preemptions > 0
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert all(answer.text.startswith("[") and set(answer.text) <= set("[]0123456789-, \n\t") for answer in together)


async def test_equal_seeds_give_equal_answers(open_tiny: OpenEngine) -> None:
    """As without a schema."""
    engine = open_tiny()
    params = replace(HOT, seed=7)
    assert (await ask(engine, "hello", params)).text == (await ask(engine, "hello", params)).text


async def test_cut_off_by_length(open_tiny: OpenEngine) -> None:
    """It says so; and where the last token allowed completes it, it is complete."""
    engine = open_tiny()
    whole = await ask(engine, "hello", replace(PLAIN, temperature=0))
    assert whole.finish_reason is FinishReason.STOP
    num_tokens = whole.usage.num_completion_tokens
    fitting = await ask(engine, "hello", replace(PLAIN, temperature=0, max_tokens=num_tokens))
    assert (fitting.text, fitting.finish_reason) == (whole.text, FinishReason.STOP)
    cut = await ask(engine, "hello", replace(PLAIN, temperature=0, max_tokens=num_tokens - 1))
    assert cut.finish_reason is FinishReason.LENGTH
    assert whole.text.startswith(cut.text)


async def test_logprobs_of_an_answer(open_tiny: OpenEngine) -> None:
    """One for each token, as the model gave it: what it would rather have said is among the likeliest."""
    engine = open_tiny()
    answer = await ask(engine, "hello", replace(HOT, num_logprobs=3, seed=2))
    assert b"".join(entry.piece for entry in answer.logprobs).decode() == answer.text
    assert answer.logprobs[0].top[0].piece != b"{"
    assert all(len(entry.top) == 3 and entry.logprob > -100 for entry in answer.logprobs)


async def test_cancelled_among_others(open_tiny: OpenEngine) -> None:
    """Its matcher is let go, and the others come to their ends."""
    engine = open_tiny()
    generation = await engine.generate(["hello"], HOT)
    other = await engine.generate(["world"], HOT)
    await anext(generation)
    generation.cancel()
    assert_valid(await read(other))
    assert generation.sequences[0].matcher is None


def test_a_start_without_schemas_pays_nothing() -> None:
    """llguidance is imported when a schema comes."""
    script = "import handler.engine.llama.model_runner, sys; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
