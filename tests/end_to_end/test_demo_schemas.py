"""Answers of the demo model under random JSON schemas: 40 in each run, 200 with `-m seeds`."""

import asyncio
import json

import jsonschema_rs
import openai
import pytest

from tests.end_to_end.program import PATIENCE
from tests.random_schemas import Schema, SchemaMaker

pytestmark = pytest.mark.model

AT_ONCE = 20  # schemas of one test; the server takes 16 of them at a time
NUM_USUAL = 2  # tests of each run
NUM_ALL = 10
MAX_TOKENS = 1500  # of an answer: more than any of these schemas takes


async def ask(client: openai.AsyncOpenAI, seed: int, schema: Schema) -> tuple[str, str]:
    """The answer's text, and why it ended."""
    answer = await client.chat.completions.create(
        model="llama",
        messages=[{"role": "user", "content": f"Invent an example, number {seed}."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "example", "strict": True, "schema": schema},
        },
        temperature=0.8,
        seed=seed,
        max_tokens=MAX_TOKENS,
        timeout=5 * PATIENCE,
    )
    return answer.choices[0].message.content or "", answer.choices[0].finish_reason


@pytest.mark.parametrize(
    "batch", [*range(NUM_USUAL), *(pytest.param(n, marks=pytest.mark.seeds) for n in range(NUM_USUAL, NUM_ALL))]
)
async def test_answers_are_instances(client: openai.AsyncOpenAI, batch: int) -> None:
    """Each answer ends by itself and is valid by an independent validator, though it was drawn at temperature 0.8."""
    seeds = range(batch * AT_ONCE, (batch + 1) * AT_ONCE)
    schemas = [SchemaMaker(seed).schema() for seed in seeds]
    answers = await asyncio.gather(*map(ask, [client] * AT_ONCE, seeds, schemas))

    for seed, schema, (text, finish_reason) in zip(seeds, schemas, answers, strict=True):
        about = f"seed {seed}: {json.dumps(schema, ensure_ascii=False)}\n{text}"
        assert finish_reason == "stop", about
        errors = jsonschema_rs.Draft202012Validator(schema, validate_formats=True).iter_errors(json.loads(text))
        assert not [error.message for error in errors], about
