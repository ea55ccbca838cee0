"""What Prometheus reads at /metrics."""

from collections.abc import Iterator

import httpx2
import pytest

from handler.engine.step_times import BOUNDS, PHASES
from handler.http.edge import HttpEdge
from handler.settings import Settings
from tests.fake_worker import FakeWorker, fake_worker


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    with fake_worker() as worker:
        yield worker


async def scrape(worker: FakeWorker | None) -> httpx2.Response:
    edge = HttpEdge(Settings.from_env({}))
    edge.worker = worker.worker if worker else None
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=edge.app), base_url="http://localhost") as client:
        return await client.get("/metrics")


def samples(text: str) -> dict[str, float]:
    """Values by name and labels; comments are of the documented form."""
    lines = text.splitlines()
    assert all(line.split()[1] in ("HELP", "TYPE") for line in lines if line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def test_counters_and_gauges(worker: FakeWorker) -> None:
    """What has been computed, and what there is now."""
    usage = (await worker.chat())["usage"]
    await worker.finishes()
    response = await scrape(worker)

    values = samples(response.text)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert values["engine_prompt_tokens_total"] == usage["prompt_tokens"]
    assert values["engine_completion_tokens_total"] == usage["completion_tokens"]
    assert (values["engine_finished_sequences_total"], values["engine_running_sequences"]) == (1, 0)
    assert values["engine_cells"] == worker.runner.num_cells


async def test_steps_are_histograms(worker: FakeWorker) -> None:
    """Buckets only grow up to the last, which has everything; every phase is there, measured or not."""
    await worker.chat()
    await worker.finishes()

    values = samples((await scrape(worker)).text)
    for phase in PHASES:
        bounds = [*map(str, BOUNDS), "+Inf"]
        counts = [values[f'engine_step_seconds_bucket{{phase="{phase}",le="{bound}"}}'] for bound in bounds]
        assert counts == sorted(counts)
        assert counts[-1] == values[f'engine_step_seconds_count{{phase="{phase}"}}']
        assert values[f'engine_step_seconds_sum{{phase="{phase}"}}'] >= 0
    assert values['engine_step_seconds_count{phase="schedule"}'] >= len("Hello!")


async def test_nothing_to_tell_while_the_model_loads() -> None:
    """Prometheus notes that the worker is not up yet."""
    assert (await scrape(None)).status_code == 503
