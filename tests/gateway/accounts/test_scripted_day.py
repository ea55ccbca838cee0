"""A day of an endpoint that scales to zero: what the gateway accounts for is what the platform bills."""

import argparse
import asyncio
import csv
import io
from pathlib import Path
from random import Random

import pytest

from local_gateway.commands import usage
from local_gateway.config.settings import GatewaySettings
from local_gateway.routing.worker_watch import CALM, EAGER
from tests.gateway.scripted_day import PRICE, SLEEPER, TIMEOUT, Arrival, ScriptedDay, scripted_day, stored_runs
from tests.runpod_emulator import EndpointSettings, Fault

HOUR = 3600.0
ROUNDING = 1.0  # second: the platform tells whole ones
TOLERANCE = 0.02  # of a day's bill, in which the errors of its runs cancel out


def a_day(rng: Random) -> list[Arrival]:
    """Lone requests, conversations with pauses, and rushes that need two workers; nights without any."""
    arrivals: list[Arrival] = []
    for hour in (7, 8, 9.5, 12, 12.02, 15, 18, 21):
        at = hour * HOUR + rng.uniform(0, 60)
        for _ in range(rng.choice((1, 1, 4, 8))):
            arrivals.append(
                Arrival(
                    at=at,
                    work=rng.uniform(0.5, 20),
                    num_prompt_tokens=rng.randint(10, 4000),
                    num_completion_tokens=rng.randint(1, 800),
                    is_stream=rng.random() < 0.7,
                )
            )
            at += rng.expovariate(1 / 8)
    return arrivals


async def play(
    folder: Path, *, flashboot: bool = False, fault: Fault | None = None
) -> tuple[ScriptedDay, GatewaySettings]:
    rng = Random(5)
    arrivals, starts = a_day(rng), [rng.uniform(3, 40) for _ in range(50)]
    own = EndpointSettings(command=SLEEPER, max_workers=2, requests_per_worker=2, idle_timeout=5.0, flashboot=flashboot)
    async with asyncio.timeout(TIMEOUT), scripted_day(folder, arrivals, starts, own) as (day, settings):
        if fault:
            day.emulator.faults.add(fault)
        await day.play()
    return day, settings


def errors_of(day: ScriptedDay, settings: GatewaySettings) -> list[int]:
    """Accounted less billed seconds of each run."""
    billed: dict[str, list[int]] = {}
    for run, seconds in zip(day.fleet.bill.runs, day.fleet.bill.seconds(day.now), strict=True):
        billed.setdefault(run.worker_id, []).append(seconds)
    accounted = stored_runs(settings)
    assert {worker: len(runs) for worker, runs in accounted.items()} == {
        worker: len(runs) for worker, runs in billed.items()
    }
    return [a - b for worker in billed for a, b in zip(accounted[worker], billed[worker], strict=True)]


@pytest.mark.parametrize("flashboot", [False, True])
async def test_a_scripted_day(tmp_path: Path, flashboot: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run of each worker is accounted for to within a look, and tokens and starts are what they were."""
    day, settings = await play(tmp_path, flashboot=flashboot)
    billed = day.fleet.billed_seconds

    usage.run(argparse.Namespace(by="endpoint", since=None, csv=True), settings)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))

    assert {response.status for response in day.responses} == {200}
    assert len(day.fleet.bill.runs) >= 12
    assert max(map(abs, errors_of(day, settings))) <= EAGER / 2 + ROUNDING
    assert float(row["billed seconds"]) == pytest.approx(billed, rel=TOLERANCE)
    assert float(row["cost"]) == pytest.approx(float(row["billed seconds"]) * PRICE)
    assert int(row["starts"]) == len(day.fleet.bill.runs)
    assert int(row["prompt tokens"]) == sum(arrival.num_prompt_tokens for arrival in day.arrivals)
    assert int(row["completion tokens"]) == sum(arrival.num_completion_tokens for arrival in day.arrivals)
    assert float(row["starting seconds"]) == pytest.approx(sum(day.cold_starts), abs=int(row["starts"]) * EAGER / 2)
    assert len(day.cold_starts) == (2 if flashboot else int(row["starts"]))


async def test_a_day_on_which_looks_fail(tmp_path: Path) -> None:
    """Every third, and then RunPod is left alone for a while: no run is lost, and the day is still right."""
    fault = Fault("workers", status=503, probability=1 / 3)

    day, settings = await play(tmp_path, fault=fault)
    errors = errors_of(day, settings)

    assert fault.num_applied > 10
    assert max(map(abs, errors)) <= EAGER + CALM
    assert abs(sum(errors)) <= 5 * TOLERANCE * day.fleet.billed_seconds
