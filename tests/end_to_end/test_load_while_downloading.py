"""The demo model, loaded while it is downloaded from a slow server: the same answers as from the disk."""

import time
from pathlib import Path

import pytest

from handler.assembly import start_worker
from handler.engine.llama.model import LlamaModel
from handler.loading import load_model
from handler.models.arrival import Arrival
from handler.models.locate import locate
from handler.settings import Settings
from tests.fake_worker import Json
from tests.models.model_server import Served, serving

pytestmark = pytest.mark.model

PROMPTS = ["def add(a, b):\n    return", "The capital of France is", '{"name":']


async def answers(settings: Settings) -> list[Json]:
    worker = start_worker(settings, load_model(settings))
    try:
        body = {"temperature": 0, "max_tokens": 16, "logprobs": 3}
        found = [await worker.api.call("/v1/completions", {"prompt": prompt, **body}) for prompt in PROMPTS]
        return [answer["choices"][0] for answer in found if isinstance(answer, dict)]
    finally:
        worker.engine.close()


async def test_answers_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first tensor was asked for when most bytes were still to come."""
    path = locate(Settings.from_env({"MODEL": "demo"}))
    arrived: list[int] = []
    reach = Arrival.reach

    def slow(self: Arrival, num_arrived: int) -> None:
        time.sleep(0.002)  # for each megabyte: the connection's pace
        reach(self, num_arrived)

    class Noting(LlamaModel):
        def __init__(self, *args: object, source: object = None) -> None:
            assert isinstance(source, Arrival)
            arrived.append(source._num_arrived)
            super().__init__(*args, source=source)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Arrival, "reach", slow)
    common = {"N_CTX": "1024", "MAX_NUM_SEQS": "2"}
    with serving() as server:
        server.files["/demo.gguf"] = Served(path.read_bytes())
        url = {"MODEL": f"{server.url}/demo.gguf", "MODELS_DIR": str(tmp_path)}
        with monkeypatch.context() as patched:
            patched.setattr("handler.weights.LlamaModel", Noting)
            while_downloading = await answers(Settings.from_env(url | common))
    assert arrived[0] < path.stat().st_size / 2
    assert while_downloading == await answers(Settings.from_env({"MODEL": "demo"} | common))
