"""Attempts at a target, and targets' names."""

import asyncio
import logging
from contextlib import ExitStack

import pytest

from local_gateway.config.settings import Target as TargetConfig
from local_gateway.errors import (
    GatewayExhaustedError,
    TargetConfigError,
    TargetPausedError,
    TargetRefusedError,
    TargetUnreachableError,
)
from local_gateway.routing.target import MAX_MODELS, Target, names_of
from tests.gateway.targets.never_asked import FakeClock, config_of, target_of

MODEL = "llama"
FRAGILE = {"failures": 1, "open_for": 10}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def target(clock: FakeClock) -> Target:
    """One failure opens its breaker."""
    return target_of(clock, breaker=FRAGILE)


def fail(target: Target) -> None:
    with pytest.raises(TargetUnreachableError), target.attempt(MODEL):
        raise TargetUnreachableError("It is gone.")


# The verdict


def test_an_error_that_passes_is_the_verdict(target: Target) -> None:
    """The breaker needs not be told."""
    fail(target)
    assert target.breaker(MODEL).state == "open"


def test_retry_after_reaches_the_breaker(target: Target) -> None:
    """The target is left alone as long as it asked."""
    with pytest.raises(TargetRefusedError), target.attempt(MODEL):
        raise TargetRefusedError(429, retry_after=7)
    assert (target.breaker(MODEL).state, target.breaker(MODEL).available_in()) == ("rate_limited", 7)


def test_a_success_closes_the_breaker(target: Target, clock: FakeClock) -> None:
    """As soon as the answer has begun, not when it is over."""
    fail(target)
    clock.now += 10

    with target.attempt(MODEL) as attempt:
        attempt.succeeded()
        assert target.breaker(MODEL).state == "closed"


@pytest.mark.parametrize("error", [TargetRefusedError(400), TargetRefusedError(404), TargetRefusedError(422)])
def test_the_clients_fault_is_a_success_of_the_target(
    target: Target, clock: FakeClock, error: TargetRefusedError
) -> None:
    """A probe that is answered like this shows that the target is back."""
    fail(target)
    clock.now += 10

    with pytest.raises(TargetRefusedError), target.attempt(MODEL):
        raise error
    assert target.breaker(MODEL).state == "closed"


async def test_a_client_that_leaves_is_no_failure(target: Target) -> None:
    """The attempt is cancelled; the breaker learns nothing."""

    async def ask() -> None:
        with target.attempt(MODEL):
            await asyncio.get_running_loop().create_future()

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert (target.breaker(MODEL).state, target.num_in_flight) == ("closed", 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), ZeroDivisionError()])
def test_a_probe_never_gets_lost(target: Target, clock: FakeClock, error: BaseException) -> None:
    """However it ends, the next attempt may probe."""
    fail(target)
    clock.now += 10

    with pytest.raises(type(error)), target.attempt(MODEL):
        raise error
    assert (target.breaker(MODEL).state, target.breaker(MODEL).allows()) == ("half_open", True)


def test_an_attempt_that_says_nothing(target: Target, clock: FakeClock) -> None:
    """Leaves the breaker as it was, and the probe free."""
    fail(target)
    clock.now += 10

    with target.attempt(MODEL):
        pass
    assert (target.breaker(MODEL).state, target.breaker(MODEL).allows()) == ("half_open", True)


def test_the_first_verdict_counts(target: Target) -> None:
    """An answer that breaks off after its beginning does not open the breaker: the next attempt finds out."""
    with target.attempt(MODEL) as attempt:
        attempt.succeeded()
        attempt.failed(TargetUnreachableError("It broke off."))
    assert target.breaker(MODEL).state == "closed"


def test_a_target_that_pauses(target: Target) -> None:
    """Is not asked; the error says when it may be."""
    fail(target)

    with pytest.raises(TargetPausedError) as caught, target.attempt(MODEL):
        raise AssertionError
    assert (caught.value.status, caught.value.retry_after, target.num_in_flight) == (503, 10, 0)


# Its models


def test_a_model_that_fails(target: Target) -> None:
    """The others of the same target are asked as before."""
    fail(target)

    with target.attempt("other") as attempt:
        attempt.succeeded()
    assert (target.breaker(MODEL).state, target.breaker("other").state) == ("open", "closed")
    assert target.states == ["closed", "open"]


def test_a_model_at_its_rate_limit(target: Target) -> None:
    """Its Retry-After is its own."""
    with pytest.raises(TargetRefusedError), target.attempt(MODEL):
        raise TargetRefusedError(429, retry_after=3600)

    assert target.breaker("other").allows()
    assert target.breaker(MODEL).available_in() == 3600


def test_many_models(target: Target) -> None:
    """Clients choose the names behind a pattern, so only so many are remembered; a pause is not forgotten for them."""
    fail(target)
    for number in range(2 * MAX_MODELS):
        with target.attempt(f"model-{number}") as attempt:
            attempt.succeeded()

    assert len(target.states) == MAX_MODELS
    assert target.states[-1] == "open"


def test_a_gateway_without_files(target: Target) -> None:
    """It says nothing about the target."""
    with pytest.raises(GatewayExhaustedError), target.attempt(MODEL):
        raise GatewayExhaustedError("Too many open files.")

    assert target.states == ["closed"]


# In flight


def test_attempts_in_flight(target: Target) -> None:
    """Count until their answers are over, also when that is long after the `with`."""
    with ExitStack() as stack:
        stack.enter_context(target.attempt(MODEL)).succeeded()
        aclose = stack.pop_all().close
    with target.attempt(MODEL):
        assert target.num_in_flight == 2
    assert target.num_in_flight == 1

    aclose()
    assert target.num_in_flight == 0


# Its log


def test_a_refused_key_is_loud(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """It is an error in the log, with the name of the target."""
    with pytest.raises(TargetConfigError), target.attempt(MODEL):
        raise TargetConfigError("The target does not accept the gateway's key.")

    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "target openai:api.openai.com (llama): its breaker is config_error, was closed")
    ]


def test_only_changes_are_logged(target: Target, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Once per change, not once per request."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        with target.attempt(MODEL) as attempt:
            attempt.succeeded()
    fail(target)
    clock.now += 10
    with target.attempt(MODEL) as attempt:
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
    """The first keeps its name, further ones get a number that is free."""
    names = names_of([config_of(), config_of(), config_of(name="openai:api.openai.com-2"), config_of()])
    assert names == [
        "openai:api.openai.com",
        "openai:api.openai.com-2",
        "openai:api.openai.com-2-2",
        "openai:api.openai.com-3",
    ]
