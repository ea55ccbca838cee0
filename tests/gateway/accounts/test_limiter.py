"""What a key may use."""

import asyncio
from dataclasses import replace

import pytest

from local_gateway.accounts.keys import Key
from local_gateway.accounts.limiter import Admission, Limiter
from local_gateway.accounts.pricing import Estimate
from local_gateway.accounts.spend import Ledger, name_of, periods_of, seconds_left
from local_gateway.errors import BudgetError, RateLimitError

NOON = 1_795_348_800.0  # 2026-11-22 12:00 UTC
KEY = Key(id="k1", name="bob", prefix="lg-bob12", hash="0" * 64, created=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Keyholder:
    """A limiter, and a key to ask it with."""

    def __init__(self, **limits: object) -> None:
        self.clock = Clock()
        self.limiter = Limiter(self.clock)
        self.key = replace(KEY, **limits)  # type: ignore[arg-type]  # tests name the fields they set

    def admit(self, *, num_tokens: int = 0, cost: float = 0.0) -> Admission:
        return self.limiter.admit(self.key, Estimate(num_tokens, 0, cost))

    def try_admit(self, *, cost: float) -> Admission | None:
        try:
            return self.admit(cost=cost)
        except BudgetError:
            return None

    @property
    def spent(self) -> float:
        """In the current period."""
        return self.limiter._ledger.spent(self.key.id, name_of(self.key.period, self.clock()))

    def is_admitted(self, *, num_tokens: int = 0, cost: float = 0.0) -> bool:
        """Whether one more would be; it leaves only its request behind."""
        try:
            self.admit(num_tokens=num_tokens, cost=cost).release()
        except (RateLimitError, BudgetError):
            return False
        return True


def test_no_key_no_limits() -> None:
    """A gateway without keys counts nothing."""
    admission = Limiter(Clock()).admit(None, Estimate(10**9, 0, 10.0**9))

    assert admission.headers == {}
    admission.settle(1, 1.0)


def test_an_admission_ends_once() -> None:
    """A release after it may stand in a `finally`; a second settlement would be a second payment."""
    bob = Keyholder(budget=10.0)
    admission = bob.admit(cost=1.0)

    admission.settle(5, 1.0)
    admission.release()

    assert bob.spent == 1.0
    with pytest.raises(AssertionError):
        admission.settle(5, 1.0)


# Requests per minute


def test_requests_per_minute() -> None:
    """A minute's worth may come at once; then one comes free at a time, and the client is told when."""
    bob = Keyholder(max_rpm=3)
    for _ in range(3):
        bob.admit()

    with pytest.raises(RateLimitError) as caught:
        bob.admit()

    assert caught.value.retry_after == pytest.approx(20.0)
    bob.clock.now += 20.0
    bob.admit()
    assert not bob.is_admitted()


def test_refused_requests_take_nothing() -> None:
    """A client that hammers on is not kept out longer."""
    bob = Keyholder(max_rpm=1, budget=1.0)
    bob.admit().release()
    for _ in range(10):
        assert not bob.is_admitted()

    bob.clock.now += 60.0

    assert bob.is_admitted()


def test_a_clock_that_is_set_back_locks_no_key_out() -> None:
    """The bucket goes on leaking from the new time."""
    bob = Keyholder(max_rpm=1)
    bob.admit()

    bob.clock.now -= 3600.0
    assert not bob.is_admitted()
    bob.clock.now += 60.0

    assert bob.is_admitted()


def test_a_changed_limit_counts_from_the_next_request_on() -> None:
    """What was used stays used."""
    bob = Keyholder(max_rpm=2)
    bob.admit()
    bob.admit()

    bob.key = replace(bob.key, max_rpm=3)

    bob.admit()
    assert not bob.is_admitted()


def test_each_key_has_its_own_limits() -> None:
    """One cannot use up another's."""
    bob = Keyholder(max_rpm=1)
    bob.admit()

    bob.limiter.admit(replace(bob.key, id="k2"), Estimate(0, 0, 0.0))

    assert not bob.is_admitted()


# Tokens per minute


def test_tokens_are_reserved_and_settled() -> None:
    """What a request did not use is free at once."""
    bob = Keyholder(max_tpm=1000)
    admission = bob.admit(num_tokens=800)
    assert not bob.is_admitted(num_tokens=300)

    admission.settle(100, 0.0)

    assert bob.is_admitted(num_tokens=900)
    assert not bob.is_admitted(num_tokens=901)


def test_tokens_over_the_estimate_count() -> None:
    """They are waited for afterwards."""
    bob = Keyholder(max_tpm=600)

    bob.admit(num_tokens=10).settle(1200, 0.0)

    with pytest.raises(RateLimitError) as caught:
        bob.admit(num_tokens=60)
    assert caught.value.retry_after == pytest.approx(66.0)


def test_a_request_larger_than_the_limit_runs_alone() -> None:
    """Otherwise it could never run."""
    bob = Keyholder(max_tpm=1000)

    admission = bob.admit(num_tokens=5000)

    assert not bob.is_admitted(num_tokens=1)
    admission.settle(0, 0.0)
    assert bob.is_admitted(num_tokens=5000)


def test_what_has_leaked_is_not_given_back_again() -> None:
    """A long answer's reservation has become free by itself."""
    bob = Keyholder(max_tpm=600)
    long = bob.admit(num_tokens=300)
    bob.clock.now += 30.0  # 300 tokens leak
    bob.admit(num_tokens=600)

    long.settle(0, 0.0)

    assert not bob.is_admitted(num_tokens=1)


# Requests at once


def test_concurrency() -> None:
    """A place is free when a request has ended, however it ended."""
    bob = Keyholder(max_concurrency=2)
    first, second = bob.admit(), bob.admit()
    assert not bob.is_admitted()

    first.settle(1, 0.0)
    second.release()

    bob.admit()
    bob.admit()
    with pytest.raises(RateLimitError) as caught:
        bob.admit()
    assert caught.value.retry_after == 1.0


# Money


def test_money_is_reserved_and_settled() -> None:
    """What a request did not cost is free at once."""
    bob = Keyholder(budget=10.0)
    admission = bob.admit(cost=8.0)
    assert not bob.is_admitted(cost=3.0)

    admission.settle(100, 1.0)

    assert bob.is_admitted(cost=9.0)
    bob.admit(cost=0.5)
    assert not bob.is_admitted(cost=9.0)


def test_a_spent_budget_is_told_when_it_begins_anew() -> None:
    """Clients are told not to try again by themselves."""
    bob = Keyholder(budget=1.0, period="day")
    bob.admit(cost=1.0).settle(0, 1.0)

    with pytest.raises(BudgetError) as caught:
        bob.admit(cost=0.1)

    assert (caught.value.retry_after, caught.value.may_retry) == (12 * 3600, False)
    assert caught.value.code == "insufficient_quota"
    bob.clock.now += 12 * 3600
    assert bob.is_admitted(cost=0.1)


def test_what_is_only_reserved_may_come_free() -> None:
    """Then trying again soon makes sense."""
    bob = Keyholder(budget=1.0)
    bob.admit(cost=1.0)

    with pytest.raises(BudgetError) as caught:
        bob.admit(cost=0.1)

    assert (caught.value.retry_after, caught.value.may_retry) == (1.0, None)


def test_the_last_of_a_budget_can_be_spent() -> None:
    """A request for which too little may be left runs if no other is reserved for."""
    bob = Keyholder(budget=1.0)

    admission = bob.admit(cost=5.0)

    assert not bob.is_admitted(cost=0.01)
    admission.settle(0, 0.4)
    assert bob.is_admitted(cost=5.0)


def test_a_failed_request_costs_nothing() -> None:
    """Its reservation is given back."""
    bob = Keyholder(budget=1.0)

    bob.admit(cost=1.0).release()

    assert bob.spent == 0.0
    assert bob.is_admitted(cost=1.0)


def test_models_that_cost_nothing_need_no_budget() -> None:
    """A key that has used up its money may go on with the worker on this machine."""
    bob = Keyholder(budget=0.0)

    assert bob.is_admitted(cost=0.0)
    assert not bob.is_admitted(cost=0.1)


@pytest.mark.parametrize("estimated", [0.5, 1.0, 3.0, 1000.0])
async def test_fifty_at_once_overspend_by_one_request_at_most(estimated: float) -> None:
    """Whatever they cost, as long as it is not more than was estimated."""
    bob = Keyholder(budget=20.0)
    actual = min(estimated, 1.0)
    num_refused = 0

    async def request() -> None:
        nonlocal num_refused
        try:
            admission = bob.admit(cost=estimated)
        except BudgetError:
            num_refused += 1
            return
        await asyncio.sleep(0)
        admission.settle(10, actual)

    for _ in range(40):
        await asyncio.gather(*(request() for _ in range(50)))

    assert num_refused > 0
    assert 20.0 <= bob.spent <= 20.0 + actual


def test_estimates_that_are_too_small_are_learned_from() -> None:
    """Requests that cost four times their estimate do not overspend four times, over and over."""
    bob = Keyholder(budget=100.0)
    bob.admit(cost=1.0).settle(0, 4.0)

    admitted = [bob.admit(cost=1.0) for _ in range(24)]

    assert not bob.is_admitted(cost=1.0)
    for admission in admitted:
        admission.settle(0, 4.0)
    assert bob.spent == 100.0


def test_spending_is_everybodys() -> None:
    """What other gateways stored counts; what this one stored does not count twice."""
    bob = Keyholder(budget=10.0)
    day, month = periods_of(NOON)
    bob.admit(cost=2.0).settle(0, 2.0)
    bob.admit(cost=1.0).settle(0, 1.0)

    bob.limiter.refresh({("k1", month): 7.0, ("k1", day): 7.0}, {("k1", month): 2.0, ("k1", day): 2.0})

    assert bob.spent == 8.0
    assert bob.is_admitted(cost=2.0)
    assert not (bob.admit(cost=1.5) and bob.is_admitted(cost=1.0))


def test_what_is_never_stored_stays_spent() -> None:
    """Records that are dropped while the database is away do not make a budget larger."""
    ledger = Ledger()
    ledger.spend("k1", NOON, 3.0)

    ledger.refresh({}, {})

    assert ledger.spent("k1", name_of("day", NOON)) == 3.0


def test_days_and_months_are_utcs() -> None:
    """A period ends at midnight there."""
    assert periods_of(NOON) == ("2026-11-22", "2026-11")
    assert seconds_left("day", NOON) == 43200
    assert seconds_left("month", NOON) == 8 * 86400 + 43200
    assert seconds_left("month", NOON + 20 * 86400) == 19 * 86400 + 43200  # into the next year


def test_the_client_sees_its_limits() -> None:
    """In OpenAI's headers, as they are after this request."""
    bob = Keyholder(max_rpm=60, max_tpm=6000)

    bob.admit(num_tokens=600)

    assert bob.admit(num_tokens=600).headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "2.00s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4800",
        "x-ratelimit-reset-tokens": "12.00s",
    }


@pytest.mark.parametrize("budget", [0.5, 1.0, 3.0])
def test_forty_at_once_that_are_estimated_to_cost_nothing(budget: float) -> None:
    """The first burst cannot be foreseen; from then on each is reserved for as the dearest of them was."""
    bob = Keyholder(budget=budget)
    bob.admit(cost=0.0).settle(1, 0.25)

    admitted = [admission for _ in range(40) if (admission := bob.try_admit(cost=0.0))]
    for admission in admitted:
        admission.settle(1, 0.25)

    assert budget - 0.25 <= bob.spent <= budget + 0.25


def test_requests_in_flight_count_as_such() -> None:
    """A dear one that runs alone keeps others out, however small its reservation is."""
    bob = Keyholder(budget=1.0)
    first = bob.admit(cost=1e-12)

    assert not bob.is_admitted(cost=1.5)
    first.settle(1, 0.5)
    assert bob.is_admitted(cost=1.5)


@pytest.mark.parametrize("seconds", [1.0, 45.0, 600.0])
def test_a_first_burst_of_long_jobs(seconds: float) -> None:
    """Forty at once, of which none has taught anything yet: each is reserved for as long as it may run."""
    bob = Keyholder(budget=5.0)
    most, actual = 600.0 * 0.01, seconds * 0.01

    admitted = [admission for _ in range(40) if (admission := bob.try_admit(cost=most))]
    for admission in admitted:
        admission.settle(1, actual)

    assert admitted
    assert bob.spent <= 5.0 + most


# Further calls for the same request


def test_calls_that_fail_do_not_overspend() -> None:
    """Ten requests fit; each of them could be sent three times more, and may not: what that costs is others'."""
    bob = Keyholder(budget=10.0)
    admitted = [bob.admit(cost=1.0) for _ in range(10)]

    num_calls = [1 + sum(admission.covers(number) for number in (2, 3, 4)) for admission in admitted]
    for admission, number in zip(admitted, num_calls, strict=True):
        admission.settle(1, 1.0 * number)

    assert sum(num_calls) == 10
    assert bob.spent == 10.0


@pytest.mark.parametrize(
    ("budget", "num_others", "may"),
    [(10.0, 1, True), (2.0, 1, False), (3.0, 1, True), (1.0, 0, True), (None, 5, True)],
)
def test_a_further_call_is_reserved_for(budget: float | None, num_others: int, may: bool) -> None:
    """As a request is: where the budget has room for it beside the others, or where there are no others."""
    bob = Keyholder(budget=budget)
    first = bob.admit(cost=1.0)
    for _ in range(num_others):
        bob.admit(cost=1.0)

    assert first.covers(1)
    assert first.covers(2) is may
    assert first.covers(2) is may, "asked again it is not reserved for again"


def test_what_was_reserved_for_further_calls_is_given_back() -> None:
    """All of it, when the request is over."""
    bob = Keyholder(budget=3.0)
    first = bob.admit(cost=1.0)
    assert first.covers(3)
    assert not bob.is_admitted(cost=1.0)

    first.settle(1, 0.5)

    assert bob.is_admitted(cost=2.5)
    assert first.covers(9), "a request that is over holds nothing"


def test_without_limits_further_calls_are_no_question() -> None:
    assert Limiter(Clock()).admit(None, Estimate(1, 1, 1.0)).covers(4)
