"""Requests share answers where a model's settings allow it, and nowhere else."""

import asyncio
from typing import Any

import orjson
import pytest

from local_gateway.config.settings import CacheSettings, ModelSettings, OpenAITarget
from local_gateway.edge.client_request import ClientRequest
from local_gateway.errors import InvalidRequestError
from local_gateway.sharing.shared_answers import SharedAnswers, Sharing, digest, is_deterministic, is_shareable
from local_gateway.wire.answer import Answer
from tests.gateway.targets.never_asked import routed_of
from tests.gateway.targets.scripted import END, JSON, ScriptedSource, read_to_end
from tests.gateway.wire_samples import text_events

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/chat/completions", "/completions", "/embeddings", "/responses"
HI: dict[str, Any] = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}
EXACT = HI | {"temperature": 0}
TARGET = OpenAITarget(type="openai")
BODY = b'{"choices": []}'


def request_of(body: dict[str, Any] | None, path: str = CHAT, **fields: Any) -> ClientRequest:
    return ClientRequest(path=path, body=body, raw=orjson.dumps(body), **fields)


def model(**settings: Any) -> ModelSettings:
    return ModelSettings(targets=(TARGET,), **settings)


CACHING = model(cache=CacheSettings())
COALESCING = model(coalesce="key")
BOTH = model(cache=CacheSettings(), coalesce="key")


async def ask(
    shared: SharedAnswers,
    target: ScriptedSource,
    settings: ModelSettings,
    body: dict[str, Any] = EXACT,
    *,
    who: str = "alice",
    **more: Any,
) -> Answer:
    return await Sharing(target, shared).answer(routed_of(request_of(body), settings, who=who, **more))


async def sharing_of(*arguments: Any, **more: Any) -> str:
    """How one request was answered, read to its end."""
    answer = await ask(*arguments, **more)
    await read_to_end(answer)
    return answer.origin.sharing


def target_of(num_answers: int = 3) -> ScriptedSource:
    """It gives one body so many times."""
    return ScriptedSource(*num_answers * [BODY, END], headers=JSON)


# What is the same request


@pytest.mark.parametrize(
    "same",
    [
        {"messages": [{"content": "Hi", "role": "user"}], "model": "llama"},
        HI | {"user": "alice", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"},
        HI | {"stream": False},
        HI | {"stream_options": {"include_usage": True}},
        HI | {"stream_options": None},
    ],
    ids=["order", "who asks", "no stream", "usage wanted", "no options"],
)
def test_same_request(same: dict[str, Any]) -> None:
    """What does not change the answer does not tell requests apart."""
    assert digest(request_of(same)) == digest(request_of(HI))


@pytest.mark.parametrize(
    "other",
    [
        request_of(HI | {"model": "llama-2"}),
        request_of(HI | {"stream": True}),
        request_of(HI | {"stream_options": {"include_obfuscation": False}}),
        request_of(HI | {"temperature": 0}),
        request_of(HI | {"unknown": 1}),
        request_of(HI | {"messages": [{"role": "user", "content": "Hi "}]}),
        request_of(HI, "/completions"),
        request_of(HI, query="a=b"),
        request_of(HI, headers={"openai-beta": "x"}),
    ],
    ids=["model", "stream", "options", "parameter", "unknown", "text", "path", "query", "beta"],
)
def test_another_request(other: ClientRequest) -> None:
    """Everything else does, also what the gateway does not know."""
    assert digest(other) != digest(request_of(HI))


def test_order_that_a_model_sees() -> None:
    """The order of a schema's properties is that of the answer."""
    schema = {"type": "object", "properties": {"a": {}, "b": {}}}
    turned = {"type": "object", "properties": {"b": {}, "a": {}}}

    assert digest(request_of(HI | {"response_format": schema})) != digest(request_of(HI | {"response_format": turned}))


def test_responses_repeat_who_asked() -> None:
    """So one person's is not given to another."""
    alice, bob = (request_of({"model": "m", "input": "Hi", "user": user}, RESPONSES) for user in ("alice", "bob"))

    assert digest(alice) != digest(bob)


@pytest.mark.parametrize("field", ["messages", "unknown"])
def test_deep_body(field: str) -> None:
    """What cannot be written down is refused."""
    with pytest.raises(InvalidRequestError, match="deeply"):
        digest(ClientRequest(path=CHAT, body=HI | {field: _nested(600)}))


def _nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        (CHAT, {}, False),
        (CHAT, {"temperature": 0}, True),
        (CHAT, {"temperature": 0.0, "n": 1}, True),
        (COMPLETIONS, {"temperature": 0}, True),
        (CHAT, {"seed": 0}, True),
        (CHAT, {"seed": None, "temperature": None}, False),
        (CHAT, {"temperature": 0.1}, False),
        (CHAT, {"temperature": 0, "n": 2}, False),
        (CHAT, {"temperature": 0, "tools": [{"type": "function"}]}, True),
        (CHAT, {"temperature": 0, "tools": None}, True),
        (RESPONSES, {"temperature": 0, "tools": [{"type": "web_search"}]}, False),
        (CHAT, {"temperature": 0, "web_search_options": {}}, False),
        (EMBEDDINGS, {}, True),
    ],
)
def test_deterministic_requests(path: str, more: dict[str, Any], expected: bool) -> None:
    """Embeddings, and what is asked for without chance: then answers may be kept."""
    assert is_deterministic(request_of(HI | more, path)) is expected


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        (CHAT, {}, True),
        (EMBEDDINGS, {}, True),
        (CHAT, {"store": True}, False),
        (RESPONSES, {}, False),
        (RESPONSES, {"store": None}, False),
        (RESPONSES, {"store": False}, True),
        (RESPONSES, {"store": False, "background": True}, False),
        (RESPONSES, {"store": False, "conversation": "conv_1"}, False),
        ("/audio/speech", {}, False),
    ],
)
def test_shareable_requests(path: str, more: dict[str, Any], expected: bool) -> None:
    """What leaves something behind at the target has to reach it."""
    assert is_shareable(request_of(HI | more, path)) is expected


def test_requests_without_a_body() -> None:
    """They are nothing we know how to share."""
    assert not is_shareable(ClientRequest(path=CHAT, raw=b"form"))
    assert not is_shareable(request_of(HI, method="GET"))


# Kept answers


async def test_second_request_is_a_hit() -> None:
    """The target is asked once."""
    shared, target = SharedAnswers(), target_of()

    assert [await sharing_of(shared, target, CACHING) for _ in range(3)] == ["miss", "hit", "hit"]
    assert target.num_calls == 1


async def test_stream_is_kept() -> None:
    """Whole."""
    shared, target = SharedAnswers(), ScriptedSource(*text_events("Paris"), END)
    streamed = EXACT | {"stream": True}

    first = await read_to_end(await ask(shared, target, CACHING, streamed))
    second = await ask(shared, target, CACHING, streamed)

    assert second.is_events
    assert b"Paris" in first
    assert b"Paris" in await read_to_end(second)
    assert target.num_calls == 1


async def test_keys_do_not_share_by_default() -> None:
    """What was answered to one is not shown to another."""
    shared, target = SharedAnswers(), target_of()

    assert [await sharing_of(shared, target, CACHING, who=who) for who in ("alice", "bob")] == ["miss", "miss"]


async def test_team_shares_by_choice() -> None:
    """Then all keys do."""
    shared, target, settings = SharedAnswers(), target_of(), model(cache=CacheSettings(scope="team"))

    assert [await sharing_of(shared, target, settings, who=who) for who in ("alice", "bob")] == ["miss", "hit"]


async def test_models_do_not_share() -> None:
    """Although a pattern and a name may both fit what the client wrote."""
    shared, target = SharedAnswers(), target_of()

    assert [await sharing_of(shared, target, CACHING, alias=alias) for alias in ("gpt-*", "gpt-4")] == ["miss", "miss"]


@pytest.mark.parametrize(
    ("settings", "body", "no_store"),
    [(model(), EXACT, False), (CACHING, HI, False), (CACHING, EXACT, True), (BOTH, EXACT, True)],
    ids=["not configured", "by chance", "not wanted", "not wanted of both"],
)
async def test_what_is_not_shared(settings: ModelSettings, body: dict[str, Any], no_store: bool) -> None:
    """It goes to the target each time, and nothing is said about sharing."""
    shared, target = SharedAnswers(), target_of()
    said = [await sharing_of(shared, target, settings, body, no_store=no_store) for _ in range(2)]

    assert (said, target.num_calls) == (["", ""], 2)


async def test_unwanted_sharing_keeps_nothing() -> None:
    """A request with no-store leaves nothing for others, and does not take away what is there."""
    shared, target = SharedAnswers(), target_of()
    no_stores = (True, False, True, False)
    said = [await sharing_of(shared, target, CACHING, no_store=no_store) for no_store in no_stores]

    assert said == ["", "miss", "", "hit"]


async def test_new_configuration() -> None:
    """A model whose settings changed begins anew; one that was only read again does not."""
    shared, target = SharedAnswers(), target_of()
    again, changed = CACHING.model_copy(), model(cache=CacheSettings(), description="changed")
    said = [await sharing_of(shared, target, settings) for settings in (CACHING, again, changed, changed)]

    assert said == ["miss", "hit", "miss", "hit"]


async def test_model_that_is_gone() -> None:
    """Its answers are forgotten, those of others are not."""
    shared, target = SharedAnswers(), target_of()
    before = [await sharing_of(shared, target, CACHING, alias=alias) for alias in ("a", "b")]
    shared.forget_except(["a"])

    assert [*before, await sharing_of(shared, target, CACHING, alias="a")] == ["miss", "miss", "hit"]
    assert await sharing_of(shared, target, CACHING, alias="b") == "miss"


async def test_answer_of_a_fallback_is_not_kept() -> None:
    """Another model's answer is better than none, but not for an hour."""
    shared, target = SharedAnswers(), target_of()
    other: dict[str, Any] = {"targets": ("target-0",)}

    assert [await sharing_of(shared, target, CACHING, **other) for _ in range(2)] == ["miss", "miss"]
    assert [await sharing_of(shared, target, CACHING) for _ in range(2)] == ["miss", "hit"]


# Answers on their way


@pytest.mark.parametrize("settings", [COALESCING, BOTH], ids=["coalescing", "and cache"])
@pytest.mark.parametrize("body", [EXACT, EXACT | {"stream": True}, HI], ids=["body", "stream", "by chance"])
async def test_fifty_requests_in_flight(settings: ModelSettings, body: dict[str, Any]) -> None:
    """They make one call."""
    shared = SharedAnswers()
    target = ScriptedSource(headers=None if body.get("stream") else JSON)
    requests = [asyncio.create_task(ask(shared, target, settings, body)) for _ in range(50)]
    await target.began.wait()
    target.answers(*text_events("Paris"), END)
    answers = await asyncio.gather(*requests)
    bodies = await asyncio.gather(*map(read_to_end, answers))

    assert set(bodies) == {b"".join(text_events("Paris"))}
    assert sorted(answer.origin.sharing for answer in answers) == ["miss", *49 * ["shared"]]
    assert target.num_calls == 1


async def test_flight_fills_the_cache() -> None:
    """Who comes after it gets what it brought; without a cache, a new call."""
    shared, target = SharedAnswers(), target_of()
    kept = [await sharing_of(shared, target, BOTH) for _ in range(2)]
    not_kept = [await sharing_of(shared, target, COALESCING, alias="other") for _ in range(2)]

    assert (kept, not_kept) == (["miss", "hit"], ["miss", "miss"])


@pytest.mark.parametrize(("scope", "num_calls"), [("key", 2), ("team", 1)])
async def test_scope_of_flights(scope: str, num_calls: int) -> None:
    """One key's requests join, or those of all, by choice."""
    shared, target = SharedAnswers(), ScriptedSource(headers=JSON)
    requests = [asyncio.create_task(ask(shared, target, model(coalesce=scope), who=who)) for who in ("alice", "bob")]
    await target.began.wait()
    target.answers(*num_calls * [BODY, END])
    for request in requests:
        assert await read_to_end(await request) == BODY

    assert target.num_calls == num_calls


async def test_request_that_wants_nothing_shared_flies_alone() -> None:
    """It neither joins nor can be joined."""
    shared, target = SharedAnswers(), ScriptedSource(headers=JSON)
    requests = [asyncio.create_task(ask(shared, target, COALESCING, no_store=no_store)) for no_store in (False, True)]
    await target.began.wait()
    target.answers(BODY, END, BODY, END)
    answers = await asyncio.gather(*requests)
    for answer in answers:
        await read_to_end(answer)

    assert [answer.origin.sharing for answer in answers] == ["miss", ""]
    assert target.num_calls == 2
