"""Attempts at a target, and targets' names."""

import asyncio
import logging
from contextlib import ExitStack

import pytest

from local_gateway.config.settings import Target as TargetConfig
from local_gateway.errors import TargetConfigError, TargetPausedError, TargetRefusedError, TargetUnreachableError
from local_gateway.routing.target import Target, names_of
from tests.gateway.fake_targets import FakeClock, config_of, target_of

FRAGILE = {"failures": 1, "open_for": 10}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def target(clock: FakeClock) -> Target:
    """One failure opens its breaker."""
    return target_of(clock, breaker=FRAGILE)


def fail(target: Target) -> None:
    with pytest.raises(TargetUnreachableError), target.attempt():
        raise TargetUnreachableError("It is gone.")


# The verdict


def test_an_error_that_passes_is_the_verdict(target: Target) -> None:
    """Nobody has to tell the breaker."""
    fail(target)
    assert target.breaker.state == "open"


def test_retry_after_reaches_the_breaker(target: Target) -> None:
    """The target is left alone as long as it asked."""
    with pytest.raises(TargetRefusedError), target.attempt():
        raise TargetRefusedError(429, retry_after=7)
    assert (target.breaker.state, target.breaker.available_in()) == ("rate_limited", 7)


def test_a_success_closes_the_breaker(target: Target, clock: FakeClock) -> None:
    """As soon as the answer has begun, not when it is over."""
    fail(target)
    clock.now += 10

    with target.attempt() as attempt:
        attempt.succeeded()
        assert target.breaker.state == "closed"


@pytest.mark.parametrize("error", [TargetRefusedError(400), TargetRefusedError(404), TargetRefusedError(422)])
def test_the_clients_fault_is_a_success_of_the_target(
    target: Target, clock: FakeClock, error: TargetRefusedError
) -> None:
    """A probe that is answered like this shows that the target is back."""
    fail(target)
    clock.now += 10

    with pytest.raises(TargetRefusedError), target.attempt():
        raise error
    assert target.breaker.state == "closed"


async def test_a_client_that_leaves_is_no_failure(target: Target) -> None:
    """The attempt is cancelled; the breaker learns nothing."""

    async def ask() -> None:
        with target.attempt():
            await asyncio.get_running_loop().create_future()

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert (target.breaker.state, target.num_in_flight) == ("closed", 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), ZeroDivisionError()])
def test_a_probe_never_gets_lost(target: Target, clock: FakeClock, error: BaseException) -> None:
    """However it ends, the next attempt may probe."""
    fail(target)
    clock.now += 10

    with pytest.raises(type(error)), target.attempt():
        raise error
    assert (target.breaker.state, target.breaker.allows()) == ("half_open", True)


def test_an_attempt_that_says_nothing(target: Target, clock: FakeClock) -> None:
    """Leaves the breaker as it was, and the probe free."""
    fail(target)
    clock.now += 10

    with target.attempt():
        pass
    assert (target.breaker.state, target.breaker.allows()) == ("half_open", True)


def test_the_first_verdict_counts(target: Target) -> None:
    """An answer that breaks off after its beginning does not open the breaker: the next attempt finds out."""
    with target.attempt() as attempt:
        attempt.succeeded()
        attempt.failed(TargetUnreachableError("It broke off."))
    assert target.breaker.state == "closed"


def test_a_target_that_pauses(target: Target) -> None:
    """Is not asked; the error says when it may be."""
    fail(target)

    with pytest.raises(TargetPausedError) as caught, target.attempt():
        raise AssertionError
    assert (caught.value.status, caught.value.retry_after, target.num_in_flight) == (503, 10, 0)


# In flight


def test_attempts_in_flight(target: Target) -> None:
    """Count until their answers are over, also when that is long after the `with`."""
    with ExitStack() as stack:
        stack.enter_context(target.attempt()).succeeded()
        aclose = stack.pop_all().close
    with target.attempt():
        assert target.num_in_flight == 2
    assert target.num_in_flight == 1

    aclose()
    assert target.num_in_flight == 0


# Its log


def test_a_refused_key_is_loud(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """It is an error in the log, with the name of the target."""
    with pytest.raises(TargetConfigError), target.attempt():
        raise TargetConfigError("The target does not accept the gateway's key.")

    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "target openai:api.openai.com: its breaker is config_error, was closed")
    ]


def test_only_changes_are_logged(target: Target, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Once per change, not once per request."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        with target.attempt() as attempt:
            attempt.succeeded()
    fail(target)
    clock.now += 10
    with target.attempt() as attempt:
        attempt.succeeded()

    assert [(record.levelname, record.message.partition("breaker ")[2]) for record in caplog.records] == [
        ("WARNING", "is open, was closed"),
        ("INFO", "is closed, was half_open"),
    ]


# Names

RUNPOD = {"endpoint_id": "abc123", "api_key": "rpa_secret"}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (config_of(name="mine"), "mine"),
        (config_of(), "openai:api.openai.com"),
        (config_of(model="gpt-4o"), "openai:api.openai.com/gpt-4o"),
        (config_of(base_url="http://me:secret@gpu:8001/v1"), "openai:gpu:8001"),
        (config_of(type="runpod_queue", **RUNPOD), "runpod_queue:abc123"),
        (config_of(type="runpod_lb", **RUNPOD), "runpod_lb:abc123"),
        (config_of(type="local"), "local:demo"),
        (config_of(type="local", gguf="/models/tiny.gguf"), "local:tiny.gguf"),
        (config_of(type="local", gguf="https://host/a/tiny.gguf?token=secret"), "local:tiny.gguf"),
        (config_of(type="local", gguf="org/name:Q4_K_M"), "local:name:Q4_K_M"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names(config: TargetConfig, name: str) -> None:
    """As configured, or type and address; never a secret."""
    assert names_of([config]) == [name]


def test_names_are_unique() -> None:
    """The first keeps its name, further ones get a number that nobody has."""
    names = names_of([config_of(), config_of(), config_of(name="openai:api.openai.com-2"), config_of()])
    assert names == [
        "openai:api.openai.com",
        "openai:api.openai.com-2",
        "openai:api.openai.com-2-2",
        "openai:api.openai.com-3",
    ]
