"""Whom a plan asks next, when, and what it tells the client at the end."""

from random import Random
from typing import Any

import pytest

from local_gateway.config.settings import RetrySettings
from local_gateway.errors import (
    AnswerBrokenError,
    InvalidRequestError,
    PayloadTooLargeError,
    RateLimitError,
    RequestError,
    TargetConfigError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
    UnavailableError,
)
from local_gateway.routing.retry_plan import RetryPlan
from local_gateway.routing.router import Choice
from tests.gateway.targets.never_asked import FakeClock, target_of


def gone(times: int) -> list[RequestError]:
    return [TargetUnreachableError("It is gone.") for _ in range(times)]


class Story:
    """A request with targets a, b, …: each has errors in store, and answers when they are used up."""

    def __init__(self, deadline: float = 600.0, **errors: list[RequestError]) -> None:
        self.clock = FakeClock()
        self.targets = {name: target_of(self.clock, name=name) for name in errors}
        self.errors = errors
        self.deadline = self.clock.now + deadline
        self.asked = ""  # the targets' names, in order
        self.delays: list[float] = []  # of each step

    def plan(self, seed: int = 0, **settings: Any) -> RetryPlan:
        choices = [Choice(target, "llama") for target in self.targets.values()]
        return RetryPlan(choices, RetrySettings(**settings), self.deadline, self.clock, Random(seed))

    def run(self, seed: int = 0, **settings: Any) -> RequestError | None:
        """The dispatcher's loop. What the client is told; None when there is an answer."""
        plan = self.plan(seed, **settings)
        while (step := plan.next()) is not None:
            self.delays.append(step.delay)
            self.clock.now += step.delay
            try:
                self._ask(step.choice)
            except RequestError as error:
                plan.failed(step.choice, error)
            else:
                return None
        return plan.error()

    def _ask(self, choice: Choice) -> None:
        with choice.target.attempt(choice.model_name) as attempt:
            self.asked += choice.target.name
            if self.errors[choice.target.name]:
                raise self.errors[choice.target.name].pop(0)
            attempt.succeeded()

    def pause(self, name: str, outcome: Any, retry_after: float | None = None) -> None:
        """What another request found out about a target."""
        breaker = self.targets[name].breaker("llama")
        breaker.end(breaker.begin(), outcome, retry_after)

    def open(self, name: str) -> None:
        for _ in range(5):
            self.pause(name, "failed")


def told(error: RequestError | None) -> tuple[int, float | None, bool | None]:
    assert error is not None
    return error.status, error.retry_after, error.may_retry


# Every kind of error


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (TargetUnreachableError("x"), "aba"),
        (TargetTimeoutError("x"), "aba"),
        (AnswerBrokenError("x"), "aba"),
        (UnavailableError("x"), "aba"),
        (TargetRefusedError(408), "aba"),
        (TargetRefusedError(409), "aba"),
        (TargetRefusedError(425), "aba"),
        (TargetRefusedError(429, retry_after=0.001), "abba"),  # it pauses when b does not
        (TargetRefusedError(500), "aba"),
        (TargetRefusedError(502), "aba"),
        (TargetRefusedError(503), "aba"),
        (TargetRefusedError(504), "aba"),
        (TargetConfigError("x"), "abbb"),
        (TargetRefusedError(401), "abbb"),
        (TargetRefusedError(403), "abbb"),
        (TargetRefusedError(404), "abbb"),
        (TargetRefusedError(413), "abbb"),
        (TargetRefusedError(501), "abbb"),
        (TargetRefusedError(429, {"code": "insufficient_quota"}), "abbb"),
        (PayloadTooLargeError("x"), "abbb"),
        (TargetRefusedError(400), "a"),
        (TargetRefusedError(415), "a"),
        (TargetRefusedError(422), "a"),
        (InvalidRequestError("x"), "a"),
    ],
    ids=str,
)
def test_who_is_asked_after_an_error(error: RequestError, asked: str) -> None:
    """The next target, then the same again if that can help; or none, if the client must change something."""
    story = Story(a=[error], b=gone(3))

    story.run()

    assert story.asked == asked


def test_the_first_that_answers() -> None:
    """Ends it, without any wait."""
    story = Story(a=[], b=[])
    assert story.run() is None
    assert (story.asked, story.delays) == ("a", [0])


def test_all_others_come_before_the_same_again() -> None:
    """Also where there is no backoff; then those that were asked less often."""
    story = Story(a=gone(9), b=gone(9), c=gone(9))
    story.run(max_attempts=7, backoff=0)
    assert story.asked == "abcabca"


def test_the_most_attempts() -> None:
    """One request costs no more calls than that."""
    story = Story(a=gone(9), b=gone(9))
    story.run(max_attempts=3)
    assert len(story.asked) == 3


# When


def test_backoff() -> None:
    """Full jitter: anything up to the limit, which doubles each time."""
    delays = []
    for seed in range(300):
        story = Story(a=gone(4))
        story.run(seed=seed, backoff=0.5, max_attempts=4)
        delays.append(story.delays)

    first, second, third, fourth = zip(*delays, strict=True)
    assert set(first) == {0}
    assert [max(second), max(third), max(fourth)] == pytest.approx([0.5, 1, 2], rel=0.05)
    assert [min(second), min(third), min(fourth)] == pytest.approx([0, 0, 0], abs=0.05)


def test_time_that_has_passed_is_not_waited_for_again() -> None:
    """While b was asked, a had its time to recover."""
    story = Story(a=[], b=[])
    plan = story.plan(backoff=0.5)
    for _ in "ab":
        step = plan.next()
        assert step is not None
        story.clock.now += 30
        plan.failed(step.choice, *gone(1))
        story.clock.now += 0.5

    again = plan.next()
    assert again is not None
    assert (again.choice.target.name, again.delay) == ("a", 0)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(status: int) -> None:
    """With a little more, so that not all who wait come at once."""
    story = Story(a=[TargetRefusedError(status, retry_after=7)])
    assert story.run(backoff=0.5) is None
    assert story.asked == "aa"
    assert 7 < story.delays[1] <= 7.5


def test_retry_after_does_not_delay_other_targets() -> None:
    """The next one is asked at once."""
    story = Story(a=[TargetRefusedError(429, retry_after=7)], b=[])
    assert story.run() is None
    assert (story.asked, story.delays) == ("ab", [0, 0])


def test_the_shortest_wait_wins() -> None:
    """Whichever target was asked first."""
    story = Story(a=[TargetRefusedError(429, retry_after=15)], b=[TargetRefusedError(429, retry_after=3)])
    assert story.run() is None
    assert story.asked == "abb"


def test_429_without_retry_after() -> None:
    """Waits as long as the target's breaker says."""
    story = Story(a=[TargetRefusedError(429), TargetRefusedError(429)])
    assert story.run(backoff=0) is None
    assert (story.asked, story.delays) == ("aaa", [0, 1, 2])


def test_a_retry_after_that_is_too_long() -> None:
    """Is not waited for but passed on: the client may come again then."""
    story = Story(a=[TargetRefusedError(429, retry_after=21)])
    assert told(story.run(max_wait=20)) == (429, 21, None)
    assert story.asked == "a"


def test_a_retry_after_beyond_the_deadline() -> None:
    """Is not waited for either."""
    story = Story(deadline=5, a=[TargetRefusedError(503, retry_after=6)])
    assert told(story.run()) == (503, 6, None)
    assert story.asked == "a"


def test_the_deadline() -> None:
    """No attempt begins after it."""
    story = Story(a=gone(1))
    plan = story.plan()
    step = plan.next()
    assert step is not None
    story.clock.now = plan.deadline
    plan.failed(step.choice, *gone(1))

    assert plan.next() is None
    assert told(plan.error()) == (502, None, False)


# Breakers


def test_a_target_that_pauses_is_skipped() -> None:
    """It costs no attempt."""
    story = Story(a=[], b=[])
    story.open("a")
    assert story.run(max_attempts=1) is None
    assert story.asked == "b"


def test_a_rate_limit_that_another_request_found() -> None:
    """Is waited for if no other target is there."""
    story = Story(a=[])
    story.pause("a", "rate_limited", 3)
    assert story.run(backoff=0.5) is None
    assert story.asked == "a"
    assert 3 < story.delays[0] <= 3.5


def test_an_open_breaker_is_not_waited_for() -> None:
    """The client is told at once, and when it may come again."""
    story = Story(a=[])
    story.open("a")
    assert told(story.run()) == (503, 10, None)
    assert story.asked == ""


def test_a_breaker_that_opens_meanwhile() -> None:
    """Ends the attempts; the client gets the error itself."""
    story = Story(a=gone(9))
    for _ in range(3):
        story.pause("a", "failed")
    assert told(story.run()) == (502, 10, None)
    assert story.asked == "aa"


def test_a_probe_of_another_request_is_waited_for() -> None:
    """When it has found the target well, this request is next."""
    story = Story(a=[])
    story.open("a")
    story.clock.now += 10
    breaker = story.targets["a"].breaker("llama")
    begun = breaker.begin()
    plan = story.plan(backoff=0)

    step = plan.next()

    assert step is not None
    assert step.delay == 1
    breaker.end(begun, "succeeded")
    assert breaker.allows()


def test_a_probe_that_never_ends() -> None:
    """Is waited for as often as there are attempts. The target is not asked."""
    story = Story(a=[])
    story.open("a")
    story.clock.now += 10
    story.targets["a"].breaker("llama").begin()

    assert told(story.run(backoff=0, max_attempts=3)) == (503, 1, False)
    assert (story.asked, story.delays) == ("", [1, 1, 1])


@pytest.mark.parametrize(
    ("a", "b", "kind", "retry_after"),
    [
        (("rate_limited", 30), ("rate_limited", 50), RateLimitError, 30),
        (("rate_limited", 30), ("failed", None), UnavailableError, 10),
        (("failed", None), ("failed", None), UnavailableError, 10),
        (("refused_key", None), ("rate_limited", 30), UnavailableError, 30),
        (("refused_key", None), ("failed", None), UnavailableError, 10),
    ],
)
def test_no_target_may_be_asked(
    a: tuple[str, float | None], b: tuple[str, float | None], kind: type[RequestError], retry_after: float
) -> None:
    """429 if all are at their limits, else 503; with the time when the first is there again."""
    story = Story(a=[], b=[])
    for name, (outcome, seconds) in {"a": a, "b": b}.items():
        for _ in range(5 if outcome == "failed" else 1):
            story.pause(name, outcome, seconds)

    error = story.run(max_wait=20)

    assert type(error) is kind
    assert told(error) == (kind.status, retry_after, None)
    assert story.asked == ""


def test_no_target_accepts_our_key() -> None:
    """No wait helps, a person must act: clients do not try again by themselves."""
    story = Story(a=[], b=[])
    story.pause("a", "refused_key")
    story.pause("b", "refused_key")
    assert told(story.run()) == (503, None, False)


# What the client is told


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (TargetRefusedError(500), TargetRefusedError(503), 503),  # the last
        (TargetRefusedError(503), TargetRefusedError(500), 500),
        (TargetRefusedError(503), TargetRefusedError(404), 503),  # rather than what only one target lacks
        (TargetRefusedError(404), TargetRefusedError(503), 503),
        (TargetTimeoutError("x"), TargetConfigError("x"), 504),
        (TargetConfigError("x"), TargetRefusedError(404), 404),
        (TargetRefusedError(503), TargetRefusedError(400), 400),  # what the client can change
        (TargetRefusedError(404), TargetRefusedError(400), 400),
    ],
    ids=str,
)
def test_the_most_telling_error(a: RequestError, b: RequestError, expected: int) -> None:
    """Of the errors of several targets."""
    error = Story(a=[a], b=[b]).run(max_attempts=2)
    assert error is not None
    assert error.status == expected


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([TargetRefusedError(500)] * 2, (500, None, False)),
        ([TargetRefusedError(503, retry_after=5)] * 2, (503, 5, False)),
        ([TargetRefusedError(429, retry_after=5)] * 2, (429, 5, False)),
        ([TargetConfigError("x")], (502, None, False)),
        ([TargetRefusedError(404)], (404, None, False)),
        ([TargetRefusedError(429, {"code": "insufficient_quota"})], (429, None, False)),
        ([TargetRefusedError(400)], (400, None, None)),
    ],
    ids=str,
)
def test_whether_the_client_should_try_again(
    errors: list[RequestError], expected: tuple[int, float | None, bool | None]
) -> None:
    """Not by itself after we have tried in vain, nor where it cannot help. Retry-After is passed on."""
    assert told(Story(a=errors).run(max_attempts=2)) == expected


def test_a_refusal_by_a_breaker_hides_no_error() -> None:
    """The client is told what the target said, not that we did not ask it again."""
    story = Story(a=[])
    plan = story.plan(backoff=0)
    step = plan.next()
    assert step is not None
    plan.failed(step.choice, TargetRefusedError(500, {"message": "Out of memory."}))
    story.open("a")
    with pytest.raises(UnavailableError) as paused, step.choice.target.attempt(step.choice.model_name):
        raise AssertionError
    plan.failed(step.choice, paused.value)

    assert str(plan.error()) == "Out of memory."
