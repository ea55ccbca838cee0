"""The breaker, with a clock that tests set."""

from random import Random
from typing import Any

import pytest

from local_gateway.config.settings import BreakerSettings
from local_gateway.errors import Outcome
from local_gateway.routing.circuit_breaker import (
    CONFIG_ERROR_PAUSE,
    MAX_LIMIT_PAUSE,
    MAX_RETRY_AFTER,
    CircuitBreaker,
)
from tests.gateway.targets.never_asked import FakeClock
from tests.seeds import seeds

OUTCOMES: list[Outcome | None] = ["succeeded", "failed", "rate_limited", "refused_key", None]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def breaker_of(clock: FakeClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(BreakerSettings(**{"failures": 3, "open_for": 10, "max_open_for": 35, **settings}), clock)


def attempt(breaker: CircuitBreaker, *outcomes: Outcome | None, retry_after: float | None = None) -> None:
    """One after the other."""
    for outcome in outcomes:
        breaker.end(breaker.begin(), outcome, retry_after)


def open_breaker(clock: FakeClock) -> CircuitBreaker:
    breaker = breaker_of(clock)
    attempt(breaker, "failed", "failed", "failed")
    return breaker


def half_open_breaker(clock: FakeClock) -> CircuitBreaker:
    breaker = open_breaker(clock)
    clock.now += breaker.available_in()
    return breaker


# What one attempt does in each state


@pytest.mark.parametrize(
    ("outcome", "state", "seconds"),
    [
        ("succeeded", "closed", 0),
        ("failed", "closed", 0),
        ("rate_limited", "rate_limited", 1),
        ("refused_key", "config_error", 60),
        (None, "closed", 0),
    ],
)
def test_an_attempt_while_closed(clock: FakeClock, outcome: Outcome | None, state: str, seconds: float) -> None:
    """One failure is nothing yet; 429 and a refused key end the asking at once."""
    breaker = breaker_of(clock)

    attempt(breaker, outcome)

    assert (breaker.state, breaker.available_in(), breaker.allows()) == (state, seconds, seconds == 0)


@pytest.mark.parametrize(
    ("outcome", "state", "seconds"),
    [
        ("succeeded", "closed", 0),
        ("failed", "open", 20),
        ("rate_limited", "rate_limited", 1),
        ("refused_key", "config_error", 60),
        (None, "half_open", 0),
    ],
)
def test_the_probe_while_half_open(clock: FakeClock, outcome: Outcome | None, state: str, seconds: float) -> None:
    """It decides; if it ends without a verdict, the next attempt is the probe."""
    breaker = half_open_breaker(clock)

    attempt(breaker, outcome)

    assert (breaker.state, breaker.available_in(), breaker.allows()) == (state, seconds, seconds == 0)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_verdict_from_before_the_pause(clock: FakeClock, outcome: Outcome | None) -> None:
    """It neither ends nor lengthens the pause."""
    breaker = breaker_of(clock)
    late = breaker.begin()
    attempt(breaker, "failed", "failed", "failed")

    breaker.end(late, outcome, 1000.0)

    assert (breaker.state, breaker.available_in()) == ("open", 10)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_verdict_from_before_the_pause_while_a_probe_is_out(clock: FakeClock, outcome: Outcome | None) -> None:
    """It does not stand for the probe, and lets no second one through."""
    breaker = breaker_of(clock)
    late = breaker.begin()
    attempt(breaker, "failed", "failed", "failed")
    clock.now += 10
    breaker.begin()

    breaker.end(late, outcome)

    assert (breaker.state, breaker.allows()) == ("half_open", False)


# Failures


def test_only_failures_in_a_row_open_it(clock: FakeClock) -> None:
    """A success between them forgets those before; what says nothing does not."""
    breaker = breaker_of(clock)

    attempt(breaker, "failed", "failed", "succeeded", "failed", None, "failed")
    assert breaker.allows()

    attempt(breaker, "failed")
    assert breaker.state == "open"


def test_an_open_breaker_lets_one_probe_through_when_the_pause_is_over(clock: FakeClock) -> None:
    """Not a moment before, and no other request beside it."""
    breaker = open_breaker(clock)
    clock.now += 9.9
    assert not breaker.allows()

    clock.now += 0.1
    assert (breaker.state, breaker.allows()) == ("half_open", True)

    breaker.begin()
    assert (breaker.allows(), breaker.available_in()) == (False, 1)


def test_pauses_grow_to_the_longest(clock: FakeClock) -> None:
    """Each is twice the one before, up to the limit, and short again after a success."""
    breaker = open_breaker(clock)
    pauses = []
    for _ in range(4):
        pauses.append(breaker.available_in())
        clock.now += pauses[-1]
        attempt(breaker, "failed")
    assert pauses == [10, 20, 35, 35]

    clock.now += 35
    attempt(breaker, "succeeded", "failed", "failed", "failed")
    assert breaker.available_in() == 10


def test_a_first_pause_longer_than_the_longest(clock: FakeClock) -> None:
    """The longest is the limit of the first as well."""
    breaker = breaker_of(clock, failures=1, open_for=50)
    attempt(breaker, "failed")
    assert breaker.available_in() == 35


# Rate limits


def test_retry_after_is_obeyed(clock: FakeClock) -> None:
    """Then it is as before: everybody may go, no probe is needed."""
    breaker = breaker_of(clock)

    attempt(breaker, "rate_limited", retry_after=7.5)
    assert breaker.available_in() == 7.5

    clock.now += 7.5
    assert breaker.state == "closed"
    breaker.begin()
    assert breaker.allows()


def test_rate_limits_without_retry_after(clock: FakeClock) -> None:
    """Twice as long each time, up to a minute, and a second again after a success."""
    breaker = breaker_of(clock)
    pauses = []
    for _ in range(8):
        attempt(breaker, "rate_limited")
        pauses.append(breaker.available_in())
        clock.now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, MAX_LIMIT_PAUSE, MAX_LIMIT_PAUSE]

    attempt(breaker, "succeeded", "rate_limited")
    assert breaker.available_in() == 1


def test_a_storm_of_429(clock: FakeClock) -> None:
    """Fifty at once are one reason to pause, not fifty."""
    breaker = breaker_of(clock)
    storm = [breaker.begin() for _ in range(50)]

    for begun in storm:
        breaker.end(begun, "rate_limited")
    assert breaker.available_in() == 1

    clock.now += 1
    attempt(breaker, "rate_limited")
    assert breaker.available_in() == 2


def test_a_rate_limit_is_no_failure_and_no_success(clock: FakeClock) -> None:
    """The failures before it still count."""
    breaker = breaker_of(clock)
    attempt(breaker, "failed", "failed", "rate_limited")
    clock.now += 1
    assert breaker.allows()

    attempt(breaker, "failed")
    assert breaker.state == "open"


def test_a_retry_after_of_nothing(clock: FakeClock) -> None:
    """Is as none: a target that is asked again at once would say 429 at once."""
    breaker = breaker_of(clock)
    attempt(breaker, "rate_limited", retry_after=0.0)
    assert breaker.available_in() == 1


def test_an_absurd_retry_after(clock: FakeClock) -> None:
    """Does not silence a target for ever."""
    breaker = breaker_of(clock)
    attempt(breaker, "rate_limited", retry_after=1e12)
    assert breaker.available_in() == MAX_RETRY_AFTER


# A refused key


def test_a_refused_key_is_probed_every_minute(clock: FakeClock) -> None:
    """By one attempt, until the key is accepted."""
    breaker = breaker_of(clock)
    for _ in range(3):
        attempt(breaker, "refused_key")
        assert breaker.available_in() == CONFIG_ERROR_PAUSE
        clock.now += CONFIG_ERROR_PAUSE
        assert breaker.state == "half_open"

    attempt(breaker, "succeeded")
    assert breaker.state == "closed"


def test_a_probe_that_fails_after_a_refused_key(clock: FakeClock) -> None:
    """Opens the breaker, although it is the first failure."""
    breaker = breaker_of(clock)
    attempt(breaker, "refused_key")
    clock.now += CONFIG_ERROR_PAUSE
    attempt(breaker, "failed")
    assert (breaker.state, breaker.available_in()) == ("open", 10)


# Whatever happens


@pytest.mark.parametrize("seed", seeds())
def test_random_events(seed: int) -> None:
    """Half open there is never more than one probe; what is allowed and when agree; it always recovers."""
    rng, clock = Random(seed), FakeClock()
    breaker = breaker_of(clock, failures=rng.randint(1, 4))
    in_flight: list[int] = []
    probes: list[int] = []

    for _ in range(500):
        event = rng.choice(["begin", "begin", "end", "tick"])
        if event == "begin" and breaker.allows():
            is_probe = breaker.state == "half_open"
            in_flight.append(breaker.begin())
            probes += in_flight[-1:] if is_probe else []
        elif event == "end" and in_flight:
            begun = in_flight.pop(rng.randrange(len(in_flight)))
            probes = [probe for probe in probes if probe != begun]
            breaker.end(begun, rng.choice(OUTCOMES), rng.choice([None, 0.0, 0.5, 30.0]))
        elif event == "tick":
            clock.now += rng.choice([0.25, 1.0, 5.0, breaker.available_in()])

        assert len(probes) <= 1
        assert breaker.allows() == (breaker.state == "closed" or (breaker.state == "half_open" and not probes))
        assert breaker.allows() == (breaker.available_in() == 0)
        assert breaker.available_in() <= CONFIG_ERROR_PAUSE

    for begun in in_flight:
        breaker.end(begun, None)
    clock.now += breaker.available_in()
    attempt(breaker, "succeeded")
    assert (breaker.state, breaker.allows()) == ("closed", True)
