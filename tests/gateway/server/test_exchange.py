"""A client's request through the whole gateway: what is answered, what is recorded."""

import asyncio
import json
from typing import Any

import pytest

from local_gateway.errors import TargetUnreachableError
from local_gateway.wire.call_ledger import ExecutionStats
from tests.gateway.running_gateway import running
from tests.gateway.targets.scripted import (
    DONE,
    FINISH,
    ROLE,
    USAGE,
    ScriptedBackend,
    ScriptedUpstream,
    chunk,
    json_answer,
    stream_answer,
)

CHAT = "/v1/chat/completions"
ANSWER = {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
ASK = {"model": "llama", "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**ASK, "stream": True}
PRICED = {"llama": {"targets": [{"type": "openai", "name": "one", "price": {"prompt": 1e6, "completion": 1e6}}]}}


async def test_answer() -> None:
    """It is the target's, with our headers; and it is recorded."""
    async with running(None, ScriptedBackend(json_answer(ANSWER))) as here:
        response = await here.client.post(CHAT, ASK)

    assert (response.status, response.json()) == (200, ANSWER)
    assert response.headers["x-gateway-target"] == "one"
    assert response.headers["content-length"] == str(len(response.body))
    record = here.record
    assert (record.alias, record.target, record.status, record.outcome) == ("llama", "one", 200, "ok")
    assert (record.num_prompt_tokens, record.num_completion_tokens, record.is_estimated) == (7, 2, False)
    assert record.request_id == response.headers["x-request-id"]


async def test_stream() -> None:
    """Event by event, byte for byte, without the usage that only the accounting asked for."""
    async with running(None, ScriptedBackend(stream_answer("he", "llo"))) as here:
        response = await here.client.post(CHAT, STREAM)

    # The role is held until the first content is there; it is written with it or before it, but not later.
    assert response.body == b"".join([ROLE, chunk("he"), chunk("llo"), FINISH, DONE])
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert (here.record.num_prompt_tokens, here.record.is_stream) == (7, True)
    assert here.record.first_token_seconds is not None


async def test_usage_that_was_asked_for() -> None:
    """The chunk stays."""
    async with running(None, ScriptedBackend(stream_answer("hi"))) as here:
        response = await here.client.post(CHAT, {**STREAM, "stream_options": {"include_usage": True}})

    assert USAGE in response.body


async def test_events_as_they_come() -> None:
    """The first is with the client while the target works on the second."""
    more = asyncio.Event()
    async with running(None, ScriptedBackend(ScriptedUpstream([chunk("he"), more, chunk("llo"), DONE]))) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(b'"he"')
        assert b"llo" not in response.body
        more.set()
        await work

    assert b"llo" in response.body


async def test_slow_target() -> None:
    """A stream is opened before the target answers, kept alive, and then goes on as if nothing had been."""
    ready = asyncio.Event()
    times = {"commit": 0.01, "keep_alive": 0.01}
    async with running(None, ScriptedBackend(ready, stream_answer("hi")), timeouts=times) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(b": keep-alive\n\n: keep-alive\n\n")
        ready.set()
        await work

    assert response.status == 200
    assert response.body.replace(b": keep-alive\n\n", b"") == b"".join([ROLE, chunk("hi"), FINISH, DONE])


async def test_slow_target_that_fails() -> None:
    """The status is out; the error is an event that clients understand, and the stream ends."""
    ready = asyncio.Event()
    backend = ScriptedBackend(ready, json_answer({"error": {"message": "too long", "code": "x"}}, 400))
    async with running(None, backend, timeouts={"commit": 0}) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(b"keep-alive")
        ready.set()
        await work

    *_, error, done, end = response.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == "too long"
    assert (done, end) == (b"data: [DONE]", b"")
    assert (here.record.outcome, here.record.status) == ("client_error", 400)


async def test_stream_that_breaks() -> None:
    """What came stays; then an error event and the end."""
    broken = ScriptedUpstream([ROLE, chunk("hi"), TargetUnreachableError("The connection broke off.")])
    async with running(None, ScriptedBackend(broken)) as here:
        response = await here.client.post(CHAT, STREAM)

    assert response.status == 200
    assert b'"hi"' in response.body
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert b"target_unreachable" in response.body
    assert (here.record.outcome, here.record.is_estimated) == ("target_error", True)


async def test_client_that_leaves_a_stream() -> None:
    """The target is told at once; what the client got is accounted for, as an estimate."""
    upstream = ScriptedUpstream([ROLE, chunk("he"), chunk("llo"), asyncio.Event()])
    async with running(PRICED, ScriptedBackend(upstream)) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(b"llo")
        response.hung_up.set()
        await work

    assert upstream.is_closed
    record = here.record
    assert (record.outcome, record.is_estimated, record.num_completion_tokens) == ("client_left", True, 2)
    assert record.cost > 0


async def test_client_that_leaves_at_the_end() -> None:
    """Who has seen [DONE] has all of it, though the connection to the target is still open."""
    upstream = ScriptedUpstream([ROLE, chunk("hi"), FINISH, USAGE, DONE, asyncio.Event()])
    async with running(None, ScriptedBackend(upstream)) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(DONE)
        response.hung_up.set()
        await work

    assert (here.record.outcome, here.record.status, here.record.is_estimated) == ("ok", 200, False)


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
async def test_client_that_leaves_early(body: dict[str, Any]) -> None:
    """Before the first byte: nothing goes on at the target, and it is no failure of it."""
    backend = ScriptedBackend(asyncio.Event())
    async with running(None, backend) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(body).encode())
        await backend.called.wait()
        response.hung_up.set()
        await work
        target = here.gateway.active.targets["llama"][0]

    assert (backend.num_cancelled, target.breaker("llama").state, response.messages) == (1, "closed", [])
    assert (here.record.outcome, here.record.status, here.record.cost) == ("client_left", 499, 0)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, {**ASK, "model": "other"}, 404, "model_not_found"),
        (CHAT, {"messages": []}, 400, None),
        ("/v1/../secret", ASK, 404, "unknown_url"),
    ],
)
async def test_refusals(path: str, body: object, status: int, code: str | None) -> None:
    """They are in OpenAI's words, one line of Latin-1, and recorded too."""
    async with running(None, ScriptedBackend()) as here:
        response = await here.client.post(path, body)

    error = response.json()["error"]
    assert (response.status, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert here.record.status == status


async def test_key_is_needed() -> None:
    """Without one nothing is read, answered or recorded."""
    backend = ScriptedBackend(json_answer(ANSWER), json_answer(ANSWER))
    async with running(None, backend) as here:
        secret = here.add_key()
        refused = await here.client.post(CHAT, ASK)
        assert not here.records
        accepted = await here.client.post(CHAT, ASK, authorization=f"Bearer {secret}")
        by_other_header = await here.client.post(CHAT, ASK, x_api_key=secret)

    assert (refused.status, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (accepted.status, by_other_header.status) == (200, 200)
    assert here.records[0].key_name == "someone"


async def test_models_of_a_key() -> None:
    """A model that is not for the key looks like one that is not there."""
    async with running(None, ScriptedBackend()) as here:
        secret = here.add_key(models=("gpt-*",))
        response = await here.client.post(CHAT, ASK, authorization=f"Bearer {secret}")
        missing = await here.client.post(CHAT, {**ASK, "model": "nothing"}, authorization=f"Bearer {secret}")

    assert response.status == missing.status == 404
    assert response.body.replace(b"llama", b"nothing") == missing.body


async def test_budget() -> None:
    """What answers cost is counted, and used up."""
    async with running(PRICED, ScriptedBackend(json_answer(ANSWER), json_answer(ANSWER))) as here:
        secret = here.add_key(budget=5.0)
        first = await here.client.post(CHAT, ASK, authorization=f"Bearer {secret}")
        second = await here.client.post(CHAT, ASK, authorization=f"Bearer {secret}")

    assert (first.status, second.status) == (200, 429)
    assert second.json()["error"]["code"] == "insufficient_quota"
    assert second.headers["x-should-retry"] == "false"
    assert here.records[0].cost == 9


async def test_gpu_seconds() -> None:
    """A target that is paid by the second says how long it worked."""
    answer = json_answer(ANSWER)
    answer.facts = ExecutionStats(execution_seconds=3.0, queue_seconds=1.0)
    models = {"llama": {"targets": [{"type": "openai", "price": {"gpu_second": 2}}]}}
    async with running(models, ScriptedBackend(answer)) as here:
        await here.client.post(CHAT, ASK)

    assert (here.record.cost, here.record.execution_seconds, here.record.queue_seconds) == (6.0, 3.0, 1.0)


async def test_identical_requests() -> None:
    """50 in flight make one call, which is paid once."""
    ready = asyncio.Event()
    backend = ScriptedBackend(ready, stream_answer("hi"))
    models = {"llama": {**PRICED["llama"], "coalesce": "key"}}
    async with running(models, backend) as here:
        started = [here.client.start("POST", CHAT, json.dumps(STREAM).encode()) for _ in range(50)]
        await backend.called.wait()
        ready.set()
        await asyncio.gather(*(work for _, work in started))

    assert {response.body for response, _ in started} == {b"".join([ROLE, chunk("hi"), FINISH, DONE])}
    assert len(backend.calls) == 1
    assert sorted(record.cost for record in here.records) == [0] * 49 + [9]
    assert sorted(response.headers["x-gateway-cache"] for response, _ in started).count("miss") == 1


async def test_cache() -> None:
    """The second time no target is asked; a client that wants nothing stored is served anew."""
    backend = ScriptedBackend(json_answer(ANSWER), json_answer(ANSWER))
    models = {"llama": {**PRICED["llama"], "cache": {}}}
    async with running(models, backend) as here:
        answers = [await here.client.post(CHAT, {**ASK, "temperature": 0}) for _ in range(2)]
        answers.append(await here.client.post(CHAT, {**ASK, "temperature": 0}, cache_control="no-store"))

    assert [answer.headers.get("x-gateway-cache") for answer in answers] == ["miss", "hit", None]
    assert [answer.json() for answer in answers] == [ANSWER] * 3
    assert [record.cost for record in here.records] == [9, 0, 9]


async def test_tokens_of_an_endpoint() -> None:
    """An answer's tokens are those of the endpoint whose workers made them; a kept answer made none there."""
    endpoint = {"type": "runpod_queue", "endpoint_id": "ep", "api_key": "k"}
    models = {"llama": {"targets": [endpoint], "cache": {}}, "other": PRICED["llama"]}
    async with running(models, ScriptedBackend(json_answer(ANSWER)), ScriptedBackend(json_answer(ANSWER))) as here:
        for model in ("llama", "llama", "other"):
            await here.client.post(CHAT, {**ASK, "model": model, "temperature": 0})

    assert [(record.endpoint, record.sharing) for record in here.records] == [("ep", "miss"), ("", "hit"), ("", "")]


async def test_path_without_model() -> None:
    """Whatever else OpenAI has goes to the target that speaks its API, but not for a key that may use some models."""
    backend = ScriptedBackend(json_answer({"data": []}))
    async with running(None, backend) as here:
        free = await here.client.get("/v1/files")
        secret = here.add_key(models=("llama",))
        bound = await here.client.get("/v1/files", authorization=f"Bearer {secret}")

    assert (free.status, bound.status) == (200, 404)
    assert (backend.calls[0].path, backend.calls[0].method) == ("/files", "GET")


async def test_too_many_requests() -> None:
    """The gateway itself refuses before it drowns."""
    backend = ScriptedBackend(asyncio.Event())
    async with running(None, backend, server={"max_requests": 1}) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(ASK).encode())
        await backend.called.wait()
        refused = await here.client.post(CHAT, ASK)
        response.hung_up.set()
        await work

    assert (refused.status, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"


async def test_upstream_that_does_not_stream() -> None:
    """gateway.md B13: a stream was promised, and the target answers with a whole body: it is told in chunks."""
    ready = asyncio.Event()
    async with running(None, ScriptedBackend(ready, json_answer(ANSWER)), timeouts={"commit": 0}) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        await response.until(b"keep-alive")
        ready.set()
        await work

    assert response.body.endswith(b"data: [DONE]\n\n")
    assert b'"object":"chat.completion.chunk"' in response.body
    assert b'"delta":{"content":"hi"}' in response.body


async def test_speech_that_breaks_off() -> None:
    """No event is written into what is none: the response stays unfinished, and its connection is closed."""
    speech = ScriptedUpstream(
        [b"\x01", TargetUnreachableError("It broke off.")], headers={"content-type": "audio/mpeg"}
    )
    async with running(None, ScriptedBackend(speech)) as here:
        response = await here.client.post("/v1/audio/speech", {"model": "llama", "stream": True})

    assert (response.body, response.messages[-1]["more_body"]) == (b"\x01", True)
    assert here.record.outcome == "target_error"


async def test_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, like one that has left."""
    monkeypatch.setattr("local_gateway.edge.response.STALL_SECONDS", 0.01)
    upstream = ScriptedUpstream([chunk("hi"), asyncio.Event()])
    async with running(None, ScriptedBackend(upstream)) as here:
        response, work = here.client.start("POST", CHAT, json.dumps(STREAM).encode())
        response.stops_reading_at = b'"hi"'
        await work

    assert upstream.is_closed
    assert here.record.outcome == "client_left"
