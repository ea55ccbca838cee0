"""When an answer may end: `min_tokens`, `stop_token_ids`, and constraints of other kinds, on a real model."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from handler.engine.constraint import Constraint
from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason
from tests.engine.asking import ask
from tests.engine.llama.tiny_engine import open_engine
from tests.tiny_models import Architecture

PARAMS = SamplingParams(temperature=1.5, top_k=0, top_p=1, min_p=0, max_tokens=60, num_logprobs=0, seed=5)
OpenEngine = Callable[..., Engine]


@pytest.fixture
def engine(tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[Engine]:
    with ExitStack() as stack:
        yield stack.enter_context(open_engine(tiny_model_paths["llama"], n_ctx=256))


async def test_min_tokens(engine: Engine) -> None:
    """However likely an end is, none comes before; after them the answer ends as it would."""
    ends = tuple((token_id, 90.0) for token_id in engine.runner.vocabulary.end_of_generation)
    eager = replace(PARAMS, logit_bias=ends)
    assert len((await ask(engine, "hello", eager)).token_ids) <= 1
    patient = await ask(engine, "hello", replace(eager, min_tokens=20))
    assert patient.finish_reason is FinishReason.STOP
    assert 20 <= len(patient.token_ids) <= 21
    assert not set(patient.token_ids[:20]) & engine.runner.vocabulary.end_of_generation


async def test_stop_token_ids(engine: Engine) -> None:
    """They end an answer as the model's own ends do, without text, and wait for `min_tokens` too."""
    plain = await ask(engine, "hello", replace(PARAMS, ignore_eos=True))
    stop = plain.token_ids[10]
    first = plain.token_ids.index(stop)
    params = replace(PARAMS, ignore_eos=True, stop_token_ids=(stop, 10**6))
    stopped = await ask(engine, "hello", params)
    assert stopped.finish_reason is FinishReason.STOP
    assert plain.text.startswith(stopped.text)
    assert [*stopped.token_ids, stop][: first + 1] == plain.token_ids[: first + 1]
    later = await ask(engine, "hello", replace(params, min_tokens=40))
    assert stop not in later.token_ids[:40]


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Constraint("regex", "[a-c]{3}-[0-9]{2}"), "[a-c]{3}-[0-9]{2}"),
        (Constraint("choice", '["hello world", "the end"]'), "hello world|the end"),
        (Constraint("grammar", 'root ::= "x" [yz]+ "!"'), "x[yz]+!?"),
    ],
    ids=["regex", "choice", "grammar"],
)
async def test_kinds_of_constraints(engine: Engine, constraint: Constraint, pattern: str) -> None:
    """What comes follows them, also with a minimum of tokens that they cannot reach."""
    for seed in range(5):
        answer = await ask(engine, "hello", replace(PARAMS, seed=seed, constraint=constraint, min_tokens=50))
        assert re.fullmatch(pattern, answer.text)
