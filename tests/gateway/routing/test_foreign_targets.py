"""Targets of all kinds that refuse, fail and limit: which target is told, what is asked again, what the client hears.

Names in brackets are entries of the collected bug reports of other gateways' users.
"""

import asyncio
import time
from typing import Any

import pytest

from local_gateway.errors import (
    AnswerBrokenError,
    RequestError,
    TargetTimeoutError,
    TargetUnreachableError,
    WorkerFailedError,
)
from tests.gateway.running_gateway import Running, running
from tests.gateway.targets.scripted import (
    DONE,
    FINISH,
    ROLE,
    ScriptedBackend,
    ScriptedUpstream,
    chunk,
    json_answer,
    stream_answer,
)

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
OK = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hello"}}]}
QUEUE = {"type": "runpod_queue", "endpoint_id": "e", "api_key": "rpa_k"}
TOO_LONG = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}


def one_model(**settings: Any) -> dict[str, Any]:
    return {"llama": {"targets": [{"type": "openai", "name": "one", **settings}]}}


def any_model(**settings: Any) -> dict[str, Any]:
    return {"*": {"targets": [{"type": "openai", "name": "main", **settings}]}}


async def ask(here: Running, model: str = "llama", **body: Any) -> tuple[int, Any]:
    response = await here.client.post(CHAT, {"model": model, "messages": HI, **body})
    return response.status, response.json() if not body.get("stream") else response.body


def states(here: Running, alias: str = "llama") -> list[str]:
    return list(here.gateway.active.targets[alias][0].states)


# The client's fault (A1, B1)


@pytest.mark.parametrize("target", [{"type": "openai"}, QUEUE], ids=["openai", "queue"])
@pytest.mark.parametrize(
    "refusal",
    [
        json_answer({"error": {"message": "vLLM returned HTTP 400: {}", "code": 400}}, 400),
        json_answer({"object": "error", "message": "too long", "code": 400}, 400),
        json_answer({"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, 422),
        json_answer({"object": "error", "message": "no such thing", "code": 400}),
        ScriptedUpstream([b'data: {"error": {"message": "bad", "code": 400}}\n\n']),
        json_answer({"Message": "bad", "StatusCode": 422}),
        json_answer([{"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}]),
        json_answer(str({"error": {"message": "bad", "code": 404}})),
        ScriptedUpstream([b'event: error\ndata: {"message": "bad", "status": 413}\n\n']),
    ],
    ids=[
        *("wrapped", "older vLLM", "FastAPI", "inside a 200", "inside a stream"),
        *("capitals", "inside a list", "text of a 200", "named event"),
    ],
)
async def test_clients_fault(target: dict[str, Any], refusal: ScriptedUpstream) -> None:
    """It is one attempt, told to the client in the target's words, and the breaker hears of a healthy target."""
    backend = ScriptedBackend(*5 * [refusal])
    async with running({"llama": {"targets": [{**target, "breaker": {"failures": 1}}]}}, backend) as here:
        for _ in range(3):
            status, body = await ask(here)
            assert 400 <= status < 500
            assert body["error"]["message"]
        assert states(here) == ["closed"]

    assert len(backend.calls) == 3


# A worker that fails (A7)


@pytest.mark.parametrize(
    "failure",
    [
        json_answer({"error": {"message": "CUDA is not available", "code": 500}}, 500),
        json_answer({"error": "CUDA out of memory"}),
        TargetUnreachableError("The worker died."),
        ScriptedUpstream([]),
        ScriptedUpstream([ROLE]),
        ScriptedUpstream([b"null"], headers={"content-type": "application/json"}),
        json_answer({"status": "error", "message": "no such file"}),
        json_answer({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}),
        WorkerFailedError("The worker failed: out of memory"),
    ],
    ids=[
        *("start-up error", "error in a 200", "dead worker", "no output", "only a role"),
        *("null", "an error by its status", "a choice that failed", "raised"),
    ],
)
async def test_job_that_its_worker_fails(failure: ScriptedUpstream | RequestError) -> None:
    """It is begun at most twice: every attempt is paid for."""
    backend = ScriptedBackend(*9 * [failure])
    async with running({"llama": {"targets": [QUEUE]}}, backend) as here:
        status, body = await ask(here)

    assert (len(backend.calls), status >= 500) == (2, True)
    assert body["error"]["message"]


async def test_jobs_over_several_queues() -> None:
    """Two in all, not two each; a target of another kind is asked after them."""
    failing = [ScriptedBackend(*4 * [json_answer({"error": "no CUDA"}, 500)]) for _ in range(3)]
    other = ScriptedBackend(json_answer(OK))
    queues = [{**QUEUE, "endpoint_id": f"e{number}", "priority": number + 1} for number in range(3)]
    targets = [*queues, {"type": "openai", "priority": 9}]
    async with running({"llama": {"targets": targets}}, *failing, other) as here:
        assert (await ask(here))[0] == 200

    assert [len(backend.calls) for backend in failing] == [1, 1, 0]


async def test_call_that_began_no_job() -> None:
    """A platform that cannot be reached is asked as often as any other target."""

    class Unreachable(ScriptedBackend):
        async def open(self, call: Any) -> ScriptedUpstream:
            self.calls.append(call)
            raise TargetUnreachableError("No connection.")

    backend = Unreachable()
    async with running({"llama": {"targets": [QUEUE]}}, backend) as here:
        await ask(here)

    assert len(backend.calls) == 4


async def test_other_targets_may_be_asked_more_often() -> None:
    """Their failures cost no GPU."""
    backend = ScriptedBackend(*4 * [json_answer({"error": "oops"}, 500)])
    async with running(one_model(), backend) as here:
        await ask(here)

    assert len(backend.calls) == 4


# Waiting for a worker that never comes (A9)


async def test_timeout_says_how_the_endpoint_is() -> None:
    """The error says that no worker runs."""
    backend = ScriptedBackend(asyncio.Event())
    backend.health_now = backend.health_now._replace(detail="workers: none; jobs in the queue: 1")
    timeouts = {"total": 0.2, "probe": 0}
    async with running({"llama": {"targets": [QUEUE]}}, backend, timeouts=timeouts) as here:
        status, body = await ask(here)

    assert status == 504
    assert "workers: none; jobs in the queue: 1" in body["error"]["message"]


# A target that does not know what the gateway adds (B2)


@pytest.mark.parametrize(
    "refusal",
    [
        json_answer({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "extra"}]}, 422),
        json_answer({"error": {"message": "Unrecognized request argument supplied: stream_options"}}, 400),
        json_answer({"message": "Unknown field: include_usage"}, 400),
        json_answer({"object": "error", "message": "stream_options is not allowed", "code": 400}, 400),
        json_answer({"error": "create() got an unexpected keyword argument 'stream_options'"}, 500),
        json_answer({"message": 'Unrecognized field "streamOptions" (class ChatRequest)'}, 400),
        ScriptedUpstream(
            [b'data: {"error": {"message": "stream_options: extra fields not permitted", "code": 422}}\n\n']
        ),
        json_answer({"object": "error", "message": "include_usage is unknown", "code": 400}),
    ],
    ids=["Mistral", "Azure", "plain", "vLLM", "a wrapper", "Java", "in a stream", "in a 200"],
)
async def test_stream_options_that_are_refused(refusal: ScriptedUpstream) -> None:
    """The request is sent again without them, and the next ones are sent without them at once."""
    backend = ScriptedBackend(refusal, stream_answer("a"), stream_answer("b"))
    async with running(one_model(breaker={"failures": 1}), backend) as here:
        for text in (b"a", b"b"):
            status, body = await ask(here, stream=True)
            assert (status, text in body) == (200, True)

    assert ["stream_options" in body for body in backend.bodies] == [True, False, False]


async def test_stream_options_of_the_client() -> None:
    """What the client itself asked for is not left out: it is told that the target refuses it."""
    refusal = json_answer({"error": {"message": "stream_options are not known"}}, 400)
    backend = ScriptedBackend(refusal)
    async with running(one_model(), backend) as here:
        response = await here.client.post(
            CHAT, {"model": "llama", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
        )

    assert (response.status, len(backend.calls)) == (400, 1)


async def test_other_refusals_are_no_matter_of_stream_options() -> None:
    """One attempt, as for any fault of the client's."""
    backend = ScriptedBackend(json_answer({"error": {"message": "bad temperature"}}, 400))
    async with running(one_model(), backend) as here:
        assert (await ask(here, stream=True))[0] == 400

    assert len(backend.calls) == 1


# Models of one target (B5, B6)


@pytest.mark.parametrize(
    "failure",
    [
        json_answer({"error": "oops"}, 500),
        TargetUnreachableError("It broke off."),
        ScriptedUpstream([b"garbage"], headers={"content-type": "application/json"}),
        ScriptedUpstream([]),
        TargetTimeoutError("It took too long."),
        AnswerBrokenError("The target redirects to another address."),
        json_answer({"error": {"message": "overloaded", "code": 503}}),
        ScriptedUpstream([ROLE, b"data: {"]),
    ],
    ids=["500", "unreachable", "garbage", "empty", "late", "redirect", "503 in a 200", "half an event"],
)
async def test_model_that_fails(failure: ScriptedUpstream | RequestError) -> None:
    """Its breaker opens; the other models behind the same target are asked as before."""
    backend = ScriptedBackend(*4 * [failure], json_answer(OK))
    async with running(any_model(breaker={"failures": 2}), backend, retry={"max_attempts": 1}) as here:
        for _ in range(2):
            await ask(here, "bad")
        refused, _ = await ask(here, "bad")
        backend._script[:] = [json_answer(OK)]
        answered, _ = await ask(here, "good")

    assert (refused, answered) == (503, 200)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3600"}, "3600"),
        ({"retry_after_ms": "5000"}, "5"),
        ({}, "1"),
        ({"retry_after": "1m30s"}, "90"),
        ({"retry_after": "7.2"}, "8"),
        ({"retry_after": "soon"}, "1"),
    ],
    ids=["seconds", "milliseconds", "none", "duration", "fraction", "words"],
)
async def test_model_at_its_rate_limit(headers: dict[str, str], seconds: str) -> None:
    """Its Retry-After is passed on, and holds for no other model of the target."""
    limited = json_answer({"error": {"message": "slow down"}}, 429, **headers)
    backend = ScriptedBackend(limited, json_answer(OK))
    async with running(any_model(), backend, retry={"max_attempts": 1, "max_wait": 0}) as here:
        response = await here.client.post(CHAT, {"model": "limited", "messages": HI})
        paused, _ = await ask(here, "limited")
        answered, _ = await ask(here, "good")

    assert (response.status, response.headers["retry-after"]) == (429, seconds)
    assert (paused, answered, len(backend.calls)) == (429, 200, 2)


async def test_rate_limit_with_a_date() -> None:
    """(B21) A Retry-After may be a date; it counts from the target's own clock."""
    headers = {"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:50 GMT"}
    backend = ScriptedBackend(json_answer({"error": "slow down"}, 429, **headers))
    async with running(any_model(), backend, retry={"max_attempts": 1}) as here:
        response = await here.client.post(CHAT, {"model": "limited", "messages": HI})

    assert response.headers["retry-after"] == "10"


# An answer that is not complete (B7, B8)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [
        [ROLE, chunk("half")],
        [chunk("half") + chunk(" of it")],
        [chunk("half"), b": ping\n\n"],
        [chunk("half"), b"data: {"],
        [chunk('"finish_reason": "stop"'), chunk("[DONE]")],
        [chunk("half"), b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n'],
        [chunk("half"), b"data: [DONE"],
        [chunk("half").replace(b"null", b'"null"')],
        [chunk("half"), FINISH.replace(b'"index": 0', b'"index": 1')],
    ],
    ids=[
        *("ends", "in one block", "after a comment", "in an event", "an end in its text", "after its usage"),
        *("in the end", "a reason that is none", "another choice's end"),
    ],
)
async def test_truncated_answer(pieces: list[bytes], normalize: bool) -> None:
    """The client is told, the record says so, and it is neither kept nor given to others."""
    models = one_model(normalize=normalize)
    models["llama"] |= {"cache": {}, "coalesce": "key"}
    backend = ScriptedBackend(*(ScriptedUpstream(pieces) for _ in range(2)))
    async with running(models, backend) as here:
        for _ in range(2):
            _, body = await ask(here, stream=True, temperature=0)
            assert b'"error"' in body
            assert b'"finish_reason":"stop"' not in body
            assert body.endswith(DONE)

    assert [record.outcome for record in here.records] == ["target_error", "target_error"]
    assert [record.sharing for record in here.records] == ["miss", "miss"]


async def test_answer_with_an_end_of_either_kind() -> None:
    """A reason to finish without [DONE] is an end, and so is [DONE] alone."""
    backend = ScriptedBackend(ScriptedUpstream([chunk("a"), FINISH]), ScriptedUpstream([chunk("a"), DONE]))
    async with running(one_model(), backend) as here:
        for _ in range(2):
            assert b'"error"' not in (await ask(here, stream=True))[1]

    assert [record.outcome for record in here.records] == ["ok", "ok"]


# What operators ask for (D3, D8, D9, D10)


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({}, {}),
    ],
    ids=["old name", "both", "new name", "none"],
)
async def test_renamed_fields(sent: dict[str, Any], arrives: dict[str, Any]) -> None:
    """A field goes under the target's name for it; where the request has that one already, it wins."""
    backend = ScriptedBackend(json_answer(OK))
    async with running(one_model(rename_params={"max_tokens": "max_completion_tokens"}), backend) as here:
        await ask(here, **sent)

    (body,) = backend.bodies
    assert {name: value for name, value in body.items() if "max" in name} == arrives


async def test_fields_are_renamed_before_they_are_set_and_dropped() -> None:
    """`set_params` and `drop_params` speak of the target's names."""
    backend = ScriptedBackend(json_answer(OK))
    settings = {"rename_params": {"a": "b", "c": "d"}, "set_params": {"b": 2}, "drop_params": ["d"]}
    async with running(one_model(**settings), backend) as here:
        await ask(here, a=1, c=1)

    (body,) = backend.bodies
    assert {name: body.get(name) for name in "abcd"} == {"a": None, "b": 2, "c": None, "d": None}


async def test_budget_counts_the_renamed_body() -> None:
    """A limit under another name cannot be hidden behind the one that the target does not get."""
    models = one_model(rename_params={"limit": "max_tokens"}, price={"completion": 1_000_000})
    async with running(models, ScriptedBackend(json_answer(OK)), ScriptedBackend()) as here:
        key = f"Bearer {here.add_key(budget=100.0)}"
        held = asyncio.Event()
        here.gateway.active.targets["llama"][0].backend._script[:] = [held, json_answer(OK)]  # type: ignore[attr-defined]  # scripted
        body = {"model": "llama", "messages": HI, "limit": 90}
        first = asyncio.create_task(here.client.post(CHAT, body, authorization=key))
        await here.gateway.active.targets["llama"][0].backend.called.wait()  # type: ignore[attr-defined]  # scripted
        second = await here.client.post(CHAT, body, authorization=key)
        held.set()
        await first

    assert second.status == 429


def with_larger(*names: str) -> dict[str, Any]:
    larger = {name: {"targets": [{"type": "openai", "name": name}]} for name in names}
    return {"llama": {"targets": [{"type": "openai", "name": "small"}], "context_fallbacks": list(names)}, **larger}


@pytest.mark.parametrize(
    "refusal",
    [
        json_answer(TOO_LONG, 400),
        json_answer({"object": "error", "message": "This model's maximum context length is 4096 tokens."}, 400),
        json_answer({"error": {"code": 400, "message": "x", "type": "exceed_context_size_error"}}, 400),
        ScriptedUpstream([b'data: {"error": {"message": "prompt is too long: 9 > 8", "code": 400}}\n\n']),
    ],
    ids=["OpenAI", "vLLM", "llama.cpp", "in a stream"],
)
async def test_context_fallback(refusal: ScriptedUpstream) -> None:
    """A model with a larger context answers what is too long for the first."""
    small, large = ScriptedBackend(refusal), ScriptedBackend(json_answer(OK))
    async with running(with_larger("large"), small, large) as here:
        assert (await ask(here))[0] == 200

    assert (len(small.calls), large.bodies[0]["model"]) == (1, "large")
    assert here.record.target == "large"


async def test_context_fallbacks_one_after_the_other() -> None:
    """Until one takes the request; where none does the client is told that it is too long."""
    refusals = [json_answer(TOO_LONG, 400) for _ in range(4)]
    backends = [ScriptedBackend(refusal) for refusal in refusals[:2]]
    async with running(with_larger("large"), *backends) as here:
        status, body = await ask(here)
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")

    backends = [ScriptedBackend(refusal) for refusal in refusals[2:]]
    async with running(with_larger("large", "larger"), *backends, ScriptedBackend(json_answer(OK))) as here:
        assert (await ask(here))[0] == 200


@pytest.mark.parametrize(
    "refusal",
    [json_answer({"error": {"message": "bad"}}, 400), json_answer({"error": "oops"}, 500)],
    ids=["400", "500"],
)
async def test_context_fallback_is_for_long_requests_alone(refusal: ScriptedUpstream) -> None:
    """Other errors are no reason to ask it."""
    large = ScriptedBackend()
    async with running(with_larger("large"), ScriptedBackend(refusal), large, retry={"max_attempts": 1}) as here:
        assert (await ask(here))[0] in (400, 500)

    assert not large.calls


async def test_long_request_without_a_fallback() -> None:
    """It is the client's fault as any other: one attempt, although the model has a second target."""
    first, second = ScriptedBackend(json_answer(TOO_LONG, 400)), ScriptedBackend()
    targets = [{"type": "openai", "name": "a"}, {"type": "openai", "name": "b", "priority": 2}]
    async with running({"llama": {"targets": targets}}, first, second) as here:
        assert (await ask(here))[0] == 400

    assert (len(first.calls), len(second.calls)) == (1, 0)


async def test_timeouts_of_a_model() -> None:
    """Its own `total` and `idle` count instead of everybody's, and those of others stay."""
    models = one_model()
    models["llama"]["timeouts"] = {"total": "50ms"}
    models["other"] = {"targets": [{"type": "openai", "name": "two"}], "timeouts": {"idle": "50ms"}}
    silent = ScriptedBackend(asyncio.Event())
    stalled = ScriptedBackend(ScriptedUpstream([ROLE, chunk("a"), asyncio.Event()]))
    async with running(models, silent, stalled) as here:
        began = time.monotonic()
        status, _ = await ask(here)
        _, body = await ask(here, "other", stream=True)

    assert (status, b"sent nothing for 0.05 s" in body) == (504, True)
    assert time.monotonic() - began < 60, "not the 600 s and 300 s of the whole configuration"
