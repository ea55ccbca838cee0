"""Streams: as few posts as the round trip allows, pieces that the platform takes, results that it takes."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.stage import ODD_WORKER, Model, Stage, content, parse_events, stage
from tests.runpod_emulator import Fault, Json

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNK_LIMIT = 1_000_000
VERBOSE: Json = {  # 1.5 KB a token
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "logprobs": True,
    "top_logprobs": 20,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(model: Model) -> AsyncIterator[Stage]:
    """Its worker tells when a slot is freed."""
    async with stage(model, command=ODD_WORKER, env={"ODD_TRACE": "1"}) as traced:
        await traced.worker()
        yield traced


async def pieces_when_first_post_is_slow(stage: Stage, job_input: Json) -> list[str]:
    """The first post is answered when the model has written everything."""
    gate = asyncio.Event()
    stage.emulator.faults.add(Fault("job-stream", gate=gate, num_times=1))
    job_id = await stage.run({**job_input, "stream": True})
    await stage.prints("odd: slot freed", after=await stage.happens("taken", job_id=job_id))
    gate.set()
    return await stage.stream(job_id)


async def test_a_stream_gathers_while_it_is_posted(traced: Stage) -> None:
    """The first token is posted at once. All that the model writes meanwhile is the second post."""
    pieces = await pieces_when_first_post_is_slow(traced, {"prompt": "hello", "temperature": 0, "max_tokens": 60})

    assert len(pieces) in (2, 3)  # the last token may be told as freed before it is handed over
    assert len(parse_events(pieces[0] + "data: [DONE]\n\n")) == 1
    assert content("".join(pieces))


async def test_pieces_are_small_enough(traced: Stage) -> None:
    """What gathers may be more than the 1 MB that the platform takes; cut in pieces it arrives as it was."""
    pieces = await pieces_when_first_post_is_slow(traced, {**VERBOSE, "max_tokens": 1000})

    assert max(map(logprobs, parse_events("".join(pieces)))) > 700
    assert sum(map(len, pieces[1:])) > CHUNK_LIMIT
    assert max(len(json.dumps({"output": piece})) for piece in pieces) < CHUNK_LIMIT
    assert sum(map(logprobs, parse_events("".join(pieces)))) == 1000


def logprobs(event: Json) -> int:
    """Their number in an event."""
    return len((event["choices"][0].get("logprobs") or {"content": []})["content"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_result_over_the_limit(shared: Stage, stream: bool) -> None:
    """More than 10 MB would be refused by the platform, and the client wait in vain: it is told instead."""
    job_id = await shared.run({**VERBOSE, "n": 8, "max_tokens": 1000, "stream": stream})
    pieces = await shared.stream(job_id)
    job = await shared.status(job_id)

    if stream:
        *told, last = parse_events("".join(pieces))
        assert job["status"] == "COMPLETED"
        assert job["output"] == pieces
        assert sum(map(logprobs, told)) > 1000
    else:
        assert job["status"] == "FAILED"
        last = json.loads(job["error"])
    assert (last["status"], last["error"]["code"]) == (413, "answer_too_large")
    assert "10 MB" in last["error"]["message"]
    assert not shared.log.find("refused", job_id=job_id)


async def test_too_much_gathers(traced: Stage) -> None:
    """What would go over the limit is not begun, so the error is an event of its own."""
    pieces = await pieces_when_first_post_is_slow(traced, {**VERBOSE, "n": 8, "max_tokens": 1000})

    assert parse_events("".join(pieces))[-1]["error"]["code"] == "answer_too_large"


async def test_runsync_takes_more(shared: Stage) -> None:
    """20 MB: the same answer fits. Its one piece is too large for the stream, which is not read."""
    job = await shared.runsync({**VERBOSE, "n": 8, "max_tokens": 1000})

    assert job["status"] == "COMPLETED"
    assert len(json.dumps(job["output"])) > 10_000_000
