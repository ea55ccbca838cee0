"""Numbers and defaults that clients rely on: token limits, seeds, whole numbers, constraints, the best of several."""

from typing import Any

import pytest

from handler.api.completions import best
from handler.api.protocol import ChatCompletionRequest, CompletionRequest, parse
from handler.api.sampling import sampling_params
from handler.engine.logprobs import TokenLogprob
from handler.engine.sequence import FinishReason, SequenceOutput, SequenceUsage
from handler.errors import InvalidRequestError
from handler.job import make_handler
from tests.fake_worker import FakeWorker, fake_worker

HI = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, {"messages": HI, **fields})


async def tokens_of_job(worker: FakeWorker, job_input: dict[str, Any]) -> int:
    outputs = [output async for output in make_handler(worker.api)({"id": "1", "input": job_input})]
    assert isinstance(outputs[0], dict)
    return int(outputs[0]["usage"]["completion_tokens"])


async def test_completions_have_16_tokens() -> None:
    """By OpenAI's route, however it is reached; a limit that is given counts, and so does `min_tokens`."""
    with fake_worker(num_cells=200) as worker:
        body = {"prompt": "endless"}
        assert (await worker.complete("endless"))["usage"]["completion_tokens"] == 16
        assert (await worker.complete("endless", n_predict=20))["usage"]["completion_tokens"] == 20
        assert (await worker.complete("endless", min_tokens=30))["usage"]["completion_tokens"] == 30
        assert await tokens_of_job(worker, {"openai_route": "/v1/completions", "openai_input": body}) == 16
        assert await tokens_of_job(worker, {"route": "/v1/completions", "body": body}) == 16


async def test_chats_and_jobs_of_our_own_form_have_as_many_as_fit() -> None:
    """As before: their clients never knew OpenAI's default."""
    with fake_worker(num_cells=200) as worker:
        assert await tokens_of_job(worker, {"prompt": "endless"}) > 100
        assert await tokens_of_job(worker, {"prompt": "endless", "sampling_params": {"max_tokens": 5}}) == 5
        assert await tokens_of_job(worker, {"messages": [{"role": "user", "content": "endless"}]}) > 100


def test_any_seed() -> None:
    """-1 is llama.cpp's and vLLM's word for none."""
    assert sampling_params(chat(seed=-1)).seed is None
    assert sampling_params(chat(seed=-1.0)).seed is None
    assert sampling_params(chat(seed=0)).seed == 0
    assert sampling_params(chat(seed=-2)).seed == -2


def test_whole_numbers() -> None:
    """16.0 is an integer in JSON; 16.5, true and texts are none."""
    assert sampling_params(chat(max_tokens=16.0, top_k=40.0, min_tokens=2.0)).max_tokens == 16
    for value in (16.5, True, "16", [16]):
        with pytest.raises(InvalidRequestError):
            chat(max_tokens=value)


def test_stops_by_token() -> None:
    """vLLM's two fields."""
    params = sampling_params(chat(stop_token_ids=[1, 2], min_tokens=3))
    assert (params.stop_token_ids, params.min_tokens) == ((1, 2), 3)
    for fields in ({"stop_token_ids": [-1]}, {"stop_token_ids": 5}, {"min_tokens": 9, "max_tokens": 8}):
        with pytest.raises(InvalidRequestError):
            chat(**fields)


CONSTRAINTS: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "json_schema": {"type": "object"},
    "grammar": 'root ::= "a"',
    "guided_json": '{"type": "object"}',
    "guided_regex": "a+",
    "guided_choice": ["a", "b"],
    "guided_grammar": 'root ::= "a"',
    "regex": "a+",
    "structured_outputs": {"choice": ["a"]},
}


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("model", [ChatCompletionRequest, CompletionRequest], ids=["chat", "completions"])
def test_each_constraint_alone(name: str, model: type[ChatCompletionRequest] | type[CompletionRequest]) -> None:
    """Obeyed on both routes; with another it is a 400 that names both."""
    body = {"messages": HI} if model is ChatCompletionRequest else {"prompt": "Hi"}
    assert sampling_params(parse(model, {**body, name: CONSTRAINTS[name]})).constraint is not None
    other = "regex" if name != "regex" else "grammar"
    with pytest.raises(InvalidRequestError, match="both constrain the answer"):
        parse(model, {**body, name: CONSTRAINTS[name], other: CONSTRAINTS[other]})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "no json"}, "guided_json"),
        ({"grammar": {"type": "json"}}, "grammar"),
        ({"regex": 5}, "regex"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": {"type": "regex", "value": "a"}}, "response_format.type"),
    ],
)
def test_what_is_no_constraint(fields: dict[str, Any], param: str) -> None:
    """Named, and never let through."""
    with pytest.raises(InvalidRequestError) as caught:
        chat(**fields)
    assert caught.value.param == param


def test_no_constraint_is_none() -> None:
    """Values that ask for nothing beside one that does."""
    request = chat(response_format={"type": "text"}, grammar="", structured_outputs={}, json_schema=None, regex="a")
    assert request.wanted is not None
    assert request.wanted.param == "regex"


def output(text: str, *logprobs: float) -> SequenceOutput:
    entries = tuple(TokenLogprob(0, b"", logprob) for logprob in logprobs)
    return SequenceOutput(text, entries, FinishReason.STOP, SequenceUsage(1, 0, len(logprobs)))


def test_the_best_of_several() -> None:
    """By the mean over their tokens: a long answer is not worse for being long."""
    outputs = [output("long", -1, -1, -1, -1), output("short", -2), output("a", -3), output("b", -0.5)]
    request = parse(CompletionRequest, {"prompt": ["x", "y"], "best_of": 2, "n": 1})
    assert [chosen.text for chosen in best(outputs, request)] == ["long", "b"]
    assert not best(outputs, request)[0].logprobs


async def test_best_of() -> None:
    """One is sent, and all are counted."""
    with fake_worker() as worker:
        answer = await worker.complete("Once", best_of=3)
        assert [choice["index"] for choice in answer["choices"]] == [0]
        assert answer["choices"][0]["text"] == " upon a time"
        assert answer["choices"][0]["logprobs"] is None
        one = (await worker.complete("Once"))["usage"]["completion_tokens"]
    assert answer["usage"]["completion_tokens"] == 3 * one
