"""Whole answers are kept for a while, and nothing else."""

import pytest

from local_gateway.config.settings import CacheSettings, Price
from local_gateway.errors import AnswerBrokenError
from local_gateway.sharing.response_cache import ENTRY_BYTES, ResponseCache, StoredAnswer, is_whole
from tests.gateway.targets.never_asked import routed_of
from tests.gateway.targets.scripted import END, JSON, ScriptedSource, Step, read_to_end
from tests.gateway.wire_samples import BROKEN, DONE, NO_DONE, OPENAI_RESPONSES, events_of, text_events

ROUTED = routed_of()
CHAT, RESPONSES = "/chat/completions", "/responses"
BODY = b'{"choices": [{"message": {"content": "Paris"}}]}'


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def cache_of(clock: Clock | None = None, *, ttl: float = 10.0, max_bytes: int = 100_000) -> ResponseCache:
    return ResponseCache(CacheSettings(ttl=ttl, max_bytes=max_bytes), clock or Clock())


def stored(body: bytes) -> StoredAnswer:
    return StoredAnswer(body, "application/json", "target-1")


async def found(cache: ResponseCache, key: str) -> bytes | None:
    answer = cache.find(key)
    return None if answer is None else await read_to_end(answer)


async def record(cache: ResponseCache, *steps: Step, path: str = CHAT, status: int = 200, **headers: str) -> bytes:
    """What a client gets while it is recorded under "key"."""
    target = ScriptedSource(*steps, END, status=status, headers=headers or None)
    return await read_to_end(await cache.record("key", path, await target.answer(ROUTED)))


# Keeping


async def test_kept_answer() -> None:
    """It is found again, and again, and costs nothing."""
    cache = cache_of()
    cache.keep("key", stored(BODY))
    first, second = cache.find("key"), cache.find("key")
    assert first is not None
    assert second is not None

    assert (first.status, first.headers, first.is_events) == (200, {"content-type": "application/json"}, False)
    assert (first.origin.sharing, first.origin.target, first.origin.price) == ("hit", "target-1", Price())
    assert (first.origin.num_attempts, first.origin.is_cold) == (0, False)
    assert [await read_to_end(first), await read_to_end(second)] == [BODY, BODY]
    assert cache.find("other") is None


async def test_old_answer_is_forgotten() -> None:
    """Its time counts from when it was given, however often it is asked for."""
    clock = Clock()
    cache = cache_of(clock, ttl=10.0)
    cache.keep("key", stored(BODY))
    clock.now += 9.9
    young = await found(cache, "key")
    clock.now += 0.1

    assert (young, await found(cache, "key")) == (BODY, None)
    assert (len(cache), cache.num_bytes) == (0, 0)


async def test_least_recently_used_goes_first() -> None:
    """When there is no room for all."""
    cache = cache_of(max_bytes=2 * (ENTRY_BYTES + 10))
    cache.keep("a", stored(bytes(10)))
    cache.keep("b", stored(bytes(10)))
    cache.find("a")
    cache.keep("c", stored(bytes(10)))

    assert [await found(cache, key) for key in "abc"] == [bytes(10), None, bytes(10)]
    assert cache.num_bytes == 2 * (ENTRY_BYTES + 10)


async def test_answer_that_is_too_large() -> None:
    """It does not drive out the others."""
    cache = cache_of(max_bytes=2 * ENTRY_BYTES)
    cache.keep("key", stored(BODY))
    cache.keep("large", stored(bytes(2 * ENTRY_BYTES)))

    assert [await found(cache, "key"), await found(cache, "large")] == [BODY, None]


async def test_newer_answer_replaces_the_older() -> None:
    """Its bytes too."""
    cache = cache_of()
    cache.keep("key", stored(BODY))
    cache.keep("key", stored(b"{}"))

    assert await found(cache, "key") == b"{}"
    assert (len(cache), cache.num_bytes) == (1, ENTRY_BYTES + 2)


# Recording


async def test_body_is_recorded() -> None:
    """Also when its reader does not ask for more after the only piece."""
    cache, target = cache_of(), ScriptedSource(BODY, END, headers=JSON)
    answer = await cache.record("key", CHAT, await target.answer(ROUTED))
    piece = await anext(answer.body)
    await answer.aclose()
    hit = cache.find("key")
    assert hit is not None

    assert (piece, await read_to_end(hit)) == (BODY, BODY)
    assert hit.headers == {"content-type": "application/json"}, "what was about the other request is not told"
    assert target.num_closed == 1


async def test_stream_is_recorded_on_its_way() -> None:
    """Its reader gets it as it comes; who gets it later gets the same text and end."""
    cache, events = cache_of(), text_events("Paris", usage=True)
    target = ScriptedSource(*events[:-1])
    answer = await cache.record("key", CHAT, await target.answer(ROUTED))
    begun = [await anext(answer.body) for _ in events[:-1]]
    before = cache.find("key")
    target.says(events[-1], END)
    rest = await read_to_end(answer)
    replayed = await found(cache, "key")

    assert (begun, before, rest) == (events[:-1], None, DONE)
    assert replayed is not None
    assert b"Paris" in replayed
    assert b'"usage"' in replayed
    assert replayed.endswith(DONE)


async def test_text_is_replayed_in_one_event() -> None:
    """A replay arrives in one read, of which some clients show only the first text."""
    cache = cache_of()
    await record(cache, *text_events("Par", "is", "."))
    replayed = await found(cache, "key")

    assert replayed is not None
    assert b'"Paris."' in replayed


async def test_responses_stream_is_replayed_as_it_was() -> None:
    """It has an end of its own."""
    cache = cache_of()
    await record(cache, OPENAI_RESPONSES, path=RESPONSES)

    assert await found(cache, "key") == OPENAI_RESPONSES


@pytest.mark.parametrize(
    "events",
    [NO_DONE, BROKEN, events_of(BROKEN), [OPENAI_RESPONSES.partition(b"event: response.completed")[0]]],
    ids=["no end", "error", "error in one block", "responses without end"],
)
async def test_stream_that_is_not_whole(events: list[bytes]) -> None:
    """It goes to its reader as it is, and is not kept."""
    cache = cache_of()

    assert await record(cache, *events) == b"".join(events)
    assert len(cache) == 0


async def test_stream_that_breaks_off() -> None:
    """It is not kept, nor is one whose reader leaves."""
    cache = cache_of()
    with pytest.raises(AnswerBrokenError):
        await record(cache, *text_events("Par"), AnswerBrokenError("gone"))
    answer = await cache.record("key", CHAT, await ScriptedSource(*text_events("Par"), END).answer(ROUTED))
    await anext(answer.body)
    await answer.aclose()

    assert len(cache) == 0


async def test_body_that_breaks_off() -> None:
    """The target was let go of when the error is raised."""
    cache, target = cache_of(), ScriptedSource(BODY, AnswerBrokenError("gone"), headers=JSON)
    answer = await target.answer(ROUTED)
    with pytest.raises(AnswerBrokenError):
        await cache.record("key", CHAT, answer)

    assert (len(cache), target.num_closed) == (0, 1)


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [(201, "application/json", BODY), (200, "image/png", b"png"), (200, "application/json", b'{"error": {"code": 1}}')],
    ids=["another status", "another type", "error"],
)
async def test_answer_that_is_not_kept(status: int, content_type: str, body: bytes) -> None:
    """Only successful JSON and streams of events are."""
    cache = cache_of()

    assert await record(cache, body, status=status, **{"content-type": content_type}) == body
    assert len(cache) == 0


async def test_long_stream_is_not_kept() -> None:
    """Nor is it gathered in memory to its end."""
    cache = cache_of(max_bytes=100)
    events = text_events(*100 * ["word"])

    assert await record(cache, *events) == b"".join(events)
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":null,"output":[]}', True),
        (b'{"error": null}', True),
        (b'{"error" : "no workers available"}', False),
        (b'{"choices":[{"message":{"content":"{\\"error\\": 1}"}}]}', True),
        (b'{"choices":[{"message":{"content":"error"}}]}', True),
    ],
)
def test_error_in_a_body(body: bytes, expected: bool) -> None:
    """An error is a field of that name that holds something; text about errors is none."""
    assert is_whole(body, is_events=False) is expected


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\r\n\r\n", b"data:[DONE]\n\n"])
def test_ends_of_streams(end: bytes) -> None:
    """As servers write them."""
    assert is_whole(b"data: {}\n\n" + end, is_events=True)
    assert is_whole(end, is_events=True)
    assert not is_whole(end + b"data: {}\n\n", is_events=True)
