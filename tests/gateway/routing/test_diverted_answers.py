"""Waking a worker or paying another model: the decision, and what it comes to."""

from random import Random

import pytest

from local_gateway.accounts.worker_runs import WorkerRuns
from local_gateway.routing.diverted_answers import IDLE_TIMEOUT, WINDOW, DivertedAnswers, is_waking_cheaper
from local_gateway.wire.worker_list import SeenWorker

PRICE = 0.001  # per second of a worker
START = 20.0  # seconds


def endpoint() -> WorkerRuns:
    """Whose workers take START seconds to start."""
    runs = WorkerRuns("ep", PRICE)
    runs.look(0, [])
    runs.look(1, [SeenWorker("w", 0, START, False)])
    runs.look(2, [SeenWorker("w", 0, START, True)])
    return runs


def answers(*diverted: tuple[float, float, float]) -> DivertedAnswers:
    """Each with its beginning, end and cost."""
    found = DivertedAnswers()
    for answer in sorted(diverted, key=lambda answer: answer[1]):
        found.note(*answer)
    return found


@pytest.mark.parametrize(
    ("costs", "is_cheaper"),
    [
        ([], False),
        ([0.012], False),
        ([0.0126], True),
        ([0.006] * 3, False),
        ([0.006] * 4, True),
        ([PRICE * IDLE_TIMEOUT / 2] * 7, False),
        ([PRICE * IDLE_TIMEOUT / 2] * 8, True),
    ],
)
def test_until_their_loss_is_a_start(costs: list[float], is_cheaper: bool) -> None:
    """That of the next one with it: what it costs beyond a worker that works and waits for it alone."""
    assert endpoint().start_seconds * PRICE == 0.02

    assert is_waking_cheaper(answers(*((100, 100, cost) for cost in costs)), endpoint(), 100) is is_cheaper


def test_one_answer_that_is_dearer_than_a_start() -> None:
    """Is paid once: the next such request wakes a worker, however much later."""
    diverted = answers((0, 1, 0.1))
    diverted.clear()

    assert is_waking_cheaper(diverted, endpoint(), 1_000_000)


@pytest.mark.parametrize(
    ("diverted", "busy"),
    [
        ([(0, 10)], 10 + IDLE_TIMEOUT),
        ([(0, 10), (2, 8)], 10 + IDLE_TIMEOUT),
        ([(0, 10), (12, 20)], 20 + IDLE_TIMEOUT),
        ([(0, 10), (30, 40)], 20 + 2 * IDLE_TIMEOUT),
        ([(30, 40), (50, 60), (0, 70)], 70 + IDLE_TIMEOUT),
        ([(95, 99)], 5),
    ],
)
def test_what_a_worker_would_have_cost(diverted: list[tuple[float, float]], busy: float) -> None:
    """Its seconds from request to request, those that it waits included; side by side they cost once."""
    found = answers(*((began, ended, 1.0) for began, ended in diverted))

    assert found.loss(100, PRICE) == pytest.approx(len(diverted) - busy * PRICE)


def test_what_is_long_ago() -> None:
    """Is forgotten, and so is all of it when a worker is woken."""
    found = answers((0, 10, 1.0), (200, 210, 2.0))

    assert found.loss(10 + WINDOW + IDLE_TIMEOUT + 1, PRICE) == pytest.approx(2.0 - 15 * PRICE)
    found.clear()
    assert found.loss(300, PRICE) == 0


def simulated_cost(arrivals: list[float], work: float, other_cost: float, policy: str) -> float:
    """Of a day: each request takes `work` seconds anywhere, one worker is enough, and waking requests wait for it."""
    runs, diverted = endpoint(), DivertedAnswers()
    cost, awake_until = 0.0, -1.0
    for at in arrivals:
        if at > awake_until:
            wakes = policy == "always" or (policy == "cheaper" and is_waking_cheaper(diverted, runs, at))
            if not wakes:
                diverted.note(at, at, other_cost)
                cost += other_cost
                continue
            diverted.clear()
            cost += PRICE * START
            awake_until = at
        until = at + work + IDLE_TIMEOUT
        cost += PRICE * (until - awake_until)
        awake_until = until
    return cost


@pytest.mark.parametrize("pause", [1, 5, 20, 120, 1000])
@pytest.mark.parametrize("other_cost", [0.0005, 0.003, 0.02, 0.1])
def test_days_of_any_kind(pause: float, other_cost: float) -> None:
    """Rushes and quiet days, a dear and a cheap other model: hardly dearer than the better of always and never waking,
    which of them that is being known only afterwards."""
    rng = Random(3)
    arrivals: list[float] = []
    while len(arrivals) < 500:
        arrivals.append((arrivals[-1] if arrivals else 0) + rng.expovariate(1 / pause))

    always, never, cheaper = (
        simulated_cost(arrivals, 2.0, other_cost, policy) for policy in ("always", "never", "cheaper")
    )

    assert cheaper <= 1.4 * min(always, never)
