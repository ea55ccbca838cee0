"""The tests that RunPod's Hub runs, in .runpod/tests.json, pass on the model they are written for."""

from collections.abc import Iterator
from typing import Any

import pytest

from handler.answer_check import checked
from handler.assembly import start_worker
from handler.job import make_handler
from handler.loading import load_model
from handler.settings import Settings
from handler.worker import Worker
from tests.test_hub import TESTS


@pytest.fixture(scope="module")
def demo_worker() -> Iterator[Worker]:
    settings = Settings.from_env({"MODEL": "demo", "N_CTX": "2048", "MAX_NUM_SEQS": "2"})
    worker = start_worker(settings, load_model(settings))
    yield worker
    worker.engine.close()


@pytest.mark.model
@pytest.mark.parametrize("test", TESTS["tests"], ids=lambda test: test["name"])
async def test_the_hubs_tests_pass(demo_worker: Worker, test: dict[str, Any]) -> None:
    """With the model that they are run on."""
    handler = checked(make_handler(demo_worker.api))
    outputs = [output async for output in handler({"id": "1", "input": test["input"]})]

    assert outputs
    assert not [output for output in outputs if "error" in output]
