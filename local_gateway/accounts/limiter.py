"""The limits of keys: requests and tokens per minute, requests at once, money per day or month.

A request is admitted with what it may use at most, and settled with what it has used.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from local_gateway.accounts.keys import Key
from local_gateway.accounts.leaky_bucket import LeakyBucket
from local_gateway.accounts.pricing import Estimate
from local_gateway.accounts.spend import Ledger, Spends, name_of, seconds_left
from local_gateway.errors import BudgetError, RateLimitError

BUSY_SECONDS = 1.0  # after which one of the requests in flight may be over
FORGETTING = 0.9  # per request, of how wrong the estimates were


@dataclass(slots=True)
class KeyState:
    """What one key uses now."""

    requests: LeakyBucket = field(default_factory=LeakyBucket)
    tokens: LeakyBucket = field(default_factory=LeakyBucket)
    num_in_flight: int = 0
    reserved: float = 0.0  # money, for all in flight
    unforeseen: float = 0.0  # what requests cost of late that were estimated to cost nothing
    cost_factor: float = 1.0  # by how much requests cost more than estimated, of late


@dataclass(slots=True)
class Reservation:
    """What one request holds of its key's limits while it runs."""

    limiter: "Limiter"
    key: Key
    state: KeyState
    estimate: Estimate
    money: float  # for one call of a target
    began: float  # seconds since 1970
    num_calls: int = 1  # that money is reserved for

    def settle(self, num_tokens: int, cost: float) -> None:
        self.limiter.settle(self, num_tokens, cost)


class Admission:
    """A request that may run. It ends once: with `settle`, or with `release` if it cost nothing."""

    def __init__(self, headers: dict[str, str], reservation: Reservation | None) -> None:
        self.headers = headers  # x-ratelimit-..., for the client
        self._reservation = reservation  # None: the request has no limits
        self._is_over = False

    def covers(self, num_calls: int) -> bool:
        """Whether the key can pay for so many calls of targets, each at its dearest. If so, that is reserved."""
        return (
            self._is_over or self._reservation is None or self._reservation.limiter.extend(self._reservation, num_calls)
        )

    def settle(self, num_tokens: int, cost: float) -> None:
        """`cost` goes into the request's record, too: the same number, before anything else runs."""
        assert not self._is_over, "an admission ends once"
        self._is_over = True
        if self._reservation is not None:
            self._reservation.settle(num_tokens, cost)

    def release(self) -> None:
        """After `settle` it does nothing, so it may stand in a `finally`."""
        if not self._is_over:
            self.settle(0, 0.0)


class Limiter:
    """The limits of all keys. Each key is as it was last given: a changed limit counts from the next request on.

    Owns what is in flight and what of it is reserved. Lives in the event loop's thread; knows no database, and no clock
    but the given one. Raises RateLimitError and BudgetError, which say when to come again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        self._clock = clock
        self._states: dict[str, KeyState] = {}
        self._ledger = Ledger()

    def refresh(self, spends: Spends, stored: Spends) -> None:
        """What the database says; see Ledger."""
        self._ledger.refresh(spends, stored)

    def admit(self, key: Key | None, estimate: Estimate) -> Admission:
        """None has no limits. Raises RateLimitError or BudgetError, and then nothing is taken."""
        if key is None:
            return Admission({}, None)
        now = self._clock()
        state = self._states.setdefault(key.id, KeyState())
        cost = estimate.cost * state.cost_factor or state.unforeseen
        _check_concurrency(key, state)
        _check_rates(key, state, estimate, now)
        self._check_budget(key, state, cost, now)
        _take(key, state, estimate, cost)
        return Admission(_headers(key, state, now), Reservation(self, key, state, estimate, cost, now))

    def settle(self, reservation: Reservation, num_tokens: int, cost: float) -> None:
        """Give a reservation back, and count what was used instead. Called once for each, by its Admission."""
        key, state, estimate = reservation.key, reservation.state, reservation.estimate
        state.num_in_flight -= 1
        state.reserved -= reservation.money * reservation.num_calls
        _settle_tokens(key, state, num_tokens - estimate.num_tokens, self._clock() - reservation.began)
        if cost:
            self._ledger.spend(key.id, reservation.began, cost)
            _learn(state, cost, estimate.cost * reservation.num_calls)

    def extend(self, reservation: Reservation, num_calls: int) -> bool:
        """Reserve for further calls of the same request, if the budget has room for them or the request is alone."""
        key, state = reservation.key, reservation.state
        more = reservation.money * (num_calls - reservation.num_calls)
        if more <= 0:
            return True
        if key.budget is not None:
            spent = self._ledger.spent(key.id, name_of(key.period, self._clock()))
            if state.num_in_flight > 1 and spent + state.reserved + more > key.budget:
                return False
        reservation.num_calls = num_calls
        state.reserved += more
        return True

    def _check_budget(self, key: Key, state: KeyState, cost: float, now: float) -> None:
        """A budget is exceeded by one request at most: one that is admitted while no other of its key is in flight."""
        if key.budget is None:
            return
        spent = self._ledger.spent(key.id, name_of(key.period, now))
        is_alone = not state.num_in_flight and spent < key.budget
        if is_alone or spent + state.reserved + cost <= key.budget:
            return
        if spent < key.budget:
            message = "Other requests of this key may use up what is left of its budget. Try again when they are over."
            raise BudgetError(message, retry_after=BUSY_SECONDS)
        message = f"The budget of this key is used up: {key.budget:g} per {key.period}."
        raise BudgetError(message, retry_after=seconds_left(key.period, now), may_retry=False)


def _check_concurrency(key: Key, state: KeyState) -> None:
    if key.max_concurrency is not None and state.num_in_flight >= key.max_concurrency:
        message = f"This key may have {key.max_concurrency} requests at once."
        raise RateLimitError(message, retry_after=BUSY_SECONDS)


def _check_rates(key: Key, state: KeyState, estimate: Estimate, now: float) -> None:
    rates = (
        ("requests", state.requests, key.max_rpm, 1),
        ("tokens", state.tokens, key.max_tpm, estimate.num_tokens),
    )
    for unit, bucket, limit, amount in rates:
        wait = bucket.wait_for(amount, limit, now) if limit else 0.0
        if wait:
            message = f"Rate limit reached: this key may use {limit} {unit} per minute. Try again in {wait:.1f} s."
            raise RateLimitError(message, retry_after=wait)


def _take(key: Key, state: KeyState, estimate: Estimate, cost: float) -> None:
    state.num_in_flight += 1
    state.reserved += cost
    state.requests.add(1 if key.max_rpm else 0)
    state.tokens.add(estimate.num_tokens if key.max_tpm else 0)


def _settle_tokens(key: Key, state: KeyState, excess: int, seconds: float) -> None:
    """What the estimate was too much is given back, less what has leaked meanwhile: that is back already."""
    if key.max_tpm is None:
        return
    leaked = seconds * key.max_tpm / 60
    state.tokens.add(excess if excess > 0 else min(0.0, excess + leaked))


def _learn(state: KeyState, cost: float, estimated: float) -> None:
    """Scale later reservations by how much requests cost beyond their estimates, forgetting it by and by.

    Estimates that are always too small would let many requests at once overspend, over and over.
    """
    if estimated:
        state.cost_factor = max(1.0, cost / estimated, state.cost_factor * FORGETTING)
    else:
        state.unforeseen = max(cost, state.unforeseen * FORGETTING)


def _headers(key: Key, state: KeyState, now: float) -> dict[str, str]:
    rates = (("requests", state.requests, key.max_rpm), ("tokens", state.tokens, key.max_tpm))
    headers = {}
    for unit, bucket, limit in rates:
        if limit:
            level = bucket.level(limit, now)
            headers[f"x-ratelimit-limit-{unit}"] = str(limit)
            headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, int(limit - level)))
            headers[f"x-ratelimit-reset-{unit}"] = f"{level * 60 / limit:.2f}s"
    return headers
