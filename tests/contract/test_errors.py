"""Errors on every path: OpenAI's body with its status, as far as the platform lets it through. Never a traceback, never
Python's way to write a dict."""

import json
from typing import Any

import openai
import pytest

from tests.contract.stage import MANY, ODD_WORKER, Model, Stage, parse_events, stage
from tests.runpod_emulator import Fault, Json

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"

WRONG: dict[str, tuple[Json, int, str]] = {  # what is wrong: the job's input, OpenAI's status and code
    "nothing in it": ({}, 400, "invalid_request_error"),
    "a field out of range": ({"messages": HI, "temperature": 9}, 400, "invalid_request_error"),
    "a field of the wrong kind": ({"messages": "Hi"}, 400, "invalid_request_error"),
    "too long": ({"prompt": 9000 * "x"}, 400, "context_length_exceeded"),
    "another model": ({"messages": HI, "model": "gpt-5"}, 404, "model_not_found"),
    "another route": ({"openai_route": "/v1/images", "openai_input": {}}, 404, "unknown_url"),
    "another method": ({"route": CHAT, "method": "GET"}, 405, "method_not_allowed"),
    "a prompt that is no text": ({"prompt": "\ud800", "echo": True}, 400, "invalid_request_error"),
}


def check(text: str, status: int, code: str) -> None:
    """It is JSON, and tells all that an OpenAI client wants to know."""
    assert "Traceback" not in text
    assert "{'" not in text
    told = json.loads(text)
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert (told["status"], told["error"]["code"]) == (status, code)


@pytest.mark.parametrize("wrong", WRONG)
async def test_failed_job(shared: Stage, wrong: str) -> None:
    """A job that asks for no stream fails, and its error is the text of a JSON object."""
    job_input, status, code = WRONG[wrong]
    job = await shared.runsync(job_input)

    assert job["status"] == "FAILED"
    assert "output" not in job
    check(job["error"], status, code)


@pytest.mark.parametrize("wrong", ["a field out of range", "too long", "another model"])
async def test_failed_stream(shared: Stage, wrong: str) -> None:
    """A stream's reader would not see a failed job: it gets an event, the last before the end."""
    job_input, status, code = WRONG[wrong]
    job_id = await shared.run({**job_input, "stream": True})
    pieces = await shared.stream(job_id)

    [event] = parse_events("".join(pieces))
    check(json.dumps(event), status, code)
    assert (await shared.status(job_id))["output"] == pieces


async def test_openai_client(shared: Stage) -> None:
    """A failed job is a 500 for OpenAI's client, whatever it was; what it was is in the body."""
    async with shared.openai() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hi"}])

    body: Any = caught.value.response.json()
    check(body["error"], 404, "model_not_found")


async def test_openai_client_that_streams(shared: Stage) -> None:
    """OpenAI's client raises what the event tells."""
    async with shared.openai() as client:
        with pytest.raises(openai.APIError, match="context length") as caught:
            async for _ in await client.completions.create(model="model", prompt=9000 * "x", stream=True):
                pass

    assert caught.value.code == "context_length_exceeded"


async def test_engine_breaks_within_a_stream(model: Model) -> None:
    """After the first piece an error is an event, and the stream ends as every stream does."""
    broken = model.home / "broken-stream"
    env = {"ODD_BROKEN": str(broken), "ODD_STEP_SECONDS": "0.02"}
    async with stage(model, command=ODD_WORKER, env=env) as here:
        job_id = await here.run({"prompt": "hello", "stream": True, "max_tokens": MANY})
        await here.happens("chunk", job_id=job_id)
        broken.touch()
        pieces = await here.stream(job_id)
        broken.unlink()

    *_, last = parse_events("".join(pieces))
    assert last["error"]["code"] == "engine_error"
    assert "Traceback" not in "".join(pieces)


async def test_bad_output_is_never_posted(shared: Stage) -> None:
    """Whatever was wrong, the worker has had nothing to say that the platform would refuse."""
    assert not shared.log.find("refused")
    assert "Failed to return job results" not in shared.printed()
    assert "Traceback" not in shared.printed()


async def test_refused_chunk(shared: Stage) -> None:
    """The SDK drops a piece that is refused [SRC]. What it posts at the end is whole all the same."""
    fault = shared.emulator.faults.add(Fault("job-stream", status=400, num_times=1))
    job_id = await shared.run({"prompt": "hello", "stream": True, "max_tokens": 5})
    pieces = await shared.stream(job_id)

    output = (await shared.status(job_id))["output"]
    assert fault.num_applied == 1
    assert len(pieces) < len(output)
    assert parse_events("".join(output))
