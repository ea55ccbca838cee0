"""`suffix` of completions and llama-server's /infill, on a fake model with FIM tokens."""

import asyncio
import json
from typing import Any

import pytest

from handler.api.routes import INFILL, normalise
from handler.api.stream import EventStream
from handler.errors import RequestError
from handler.job import make_handler
from tests.engine.fakes import TIMEOUT
from tests.fake_worker import FakeWorker, fake_worker

FIM = ("<pre>", "<suf>", "<mid>")
SCRIPTS = {"<pre>def f(<suf>): pass<mid>": "x, y", "<pre>def f(x<suf>): pass<mid>": ", y"}
GAP = {"input_prefix": "def f(", "input_suffix": "): pass"}


async def ask(worker: FakeWorker, **body: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await worker.api.call("/infill", body)


async def test_suffix() -> None:
    """A completion with a suffix is what belongs between."""
    with fake_worker(SCRIPTS, specials=FIM) as worker:
        answer = await worker.complete("def f(", suffix="): pass")
        echoed = await worker.complete(["def f("], suffix="): pass", echo=True)

    assert answer["choices"][0]["text"] == "x, y"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert echoed["choices"][0]["text"] == "def f(x, y"


async def test_infill() -> None:
    """The answer has llama-server's fields, and usage for those that count by it."""
    with fake_worker(SCRIPTS, specials=FIM) as worker:
        answer = await ask(worker, **GAP, prompt="x")

    assert answer == {
        "index": 0,
        "content": ", y",
        "tokens": [],
        "stop": True,
        "model": "llama",
        "stop_type": "eos",
        "stopping_word": "",
        "tokens_predicted": 4,
        "tokens_evaluated": 17,
        "tokens_cached": 0,
        "usage": {
            "prompt_tokens": 17,
            "completion_tokens": 4,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("fields", "content", "stop_type", "word"),
    [
        ({"n_predict": 2}, "x,", "limit", ""),
        ({"n_predict": -1}, "x, y", "eos", ""),
        ({"stop": ["y"]}, "x, ", "word", "y"),
    ],
)
async def test_ends(fields: dict[str, Any], content: str, stop_type: str, word: str) -> None:
    """Why it ended, in llama-server's words; whole and streamed alike."""
    with fake_worker(SCRIPTS, specials=FIM) as worker:
        answer = await ask(worker, **GAP, **fields)
        stream = await ask(worker, **GAP, **fields, stream=True)
        assert isinstance(stream, EventStream)
        async with asyncio.timeout(TIMEOUT):
            text = "".join([item async for item in stream])

    events = [json.loads(event.removeprefix("data: ")) for event in text.strip().split("\n\n")]
    assert "".join(event["content"] for event in events) == answer["content"] == content
    assert [event["stop"] for event in events] == [*[False] * (len(events) - 1), True]
    for last in (answer, events[-1]):
        assert (last["stop_type"], last["stopping_word"]) == (stop_type, word)


async def test_control_tokens_in_the_texts_are_text() -> None:
    """A file that holds a FIM token's text is a file."""
    with fake_worker(specials=FIM) as worker:
        await ask(worker, input_prefix="<suf>", input_suffix="<mid>", n_predict=1)
        [prompt] = [sampler.name for sampler in worker.runner.samplers]

    assert prompt == "<suf><mid>"  # of control tokens it has no text


async def test_long_texts_are_cut_and_suffixes_refused() -> None:
    """/infill keeps what is near the gap, as llama-server does; OpenAI's route never answers half a prompt."""
    with fake_worker(specials=FIM, num_cells=80) as worker:
        answer = await ask(worker, input_prefix="x" * 1000, input_suffix="y" * 1000, n_predict=1)
        with pytest.raises(RequestError) as caught:
            await worker.complete("x" * 1000, suffix="y")

    assert answer["tokens_evaluated"] == 79
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/completions", {"prompt": "Once", "suffix": "end"}, "suffix"),
        ("/v1/infill", GAP, None),
    ],
)
async def test_a_model_without_the_tokens(route: str, body: dict[str, Any], param: str | None) -> None:
    """A 400 in words, and nothing is left behind."""
    with fake_worker() as worker:
        with pytest.raises(RequestError, match="no tokens to fill in the middle") as caught:
            await worker.api.call(route, body)

        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
        assert await worker.still_answers()


@pytest.mark.parametrize(
    "file", [{}, {"filename": "ok"}, {"filename": 123}, {"filename": 123, "text": "abc"}, {"filename": 123, "text": 4}]
)
async def test_wrong_files(file: object) -> None:
    """Those that llama-server's own tests send."""
    with fake_worker(specials=FIM) as worker, pytest.raises(RequestError) as caught:
        await ask(worker, **GAP, input_extra=[file])

    assert (caught.value.param or "").startswith("input_extra[0].")


async def test_a_prompt_of_tokens_has_no_suffix() -> None:
    """Whether its tokens are text or markers cannot be known."""
    with fake_worker(specials=FIM) as worker, pytest.raises(RequestError) as caught:
        await worker.complete([1, 2], suffix="end")

    assert caught.value.param == "suffix"


def test_the_route_has_llama_servers_name() -> None:
    """With and without /v1, as jobs and clients send it."""
    assert normalise("/infill") == normalise("/v1/infill") == INFILL


async def test_jobs() -> None:
    """Through RunPod's OpenAI address the route is the same."""
    with fake_worker(SCRIPTS, specials=FIM) as worker:
        job = {"id": "job", "input": {"openai_route": "/v1/infill", "openai_input": GAP}}
        outputs = [output async for output in make_handler(worker.api)(job)]

    assert [output["content"] for output in outputs if isinstance(output, dict)] == ["x, y"]
