"""A LoRA adapter on the demo model, made here, and chosen by its name as models are: over the API and as jobs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from handler.api.routes import CHAT, COMPLETIONS
from handler.assembly import start_worker
from handler.loading import load_model
from handler.settings import Settings
from handler.worker import Worker
from tests.fake_platform import FakePlatform
from tests.fake_worker import Json
from tests.tiny_models import save

pytestmark = pytest.mark.model

RANK, SIZE = 4, 4.0  # large enough to change every answer
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


def write_adapter(model: Path, path: Path) -> Path:
    """Noise, for the matrices that make queries."""
    rng = np.random.default_rng(1)
    writer = GGUFWriter(path, "qwen2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", RANK)
    for tensor in GGUFReader(model).tensors:
        if tensor.name.endswith("attn_q.weight"):
            num_inputs, num_outputs = map(int, tensor.shape)
            down = rng.standard_normal((RANK, num_inputs)) * num_inputs**-0.5
            up = rng.standard_normal((num_outputs, RANK)) * SIZE
            writer.add_tensor(f"{tensor.name}.lora_a", down.astype(np.float32))
            writer.add_tensor(f"{tensor.name}.lora_b", up.astype(np.float32))
    save(writer)
    return path


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    models = Settings.from_env({}).models_dir.expanduser()
    model = next(models.rglob("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"))
    adapter = write_adapter(model, tmp_path_factory.mktemp("adapter") / "odd.gguf")
    settings = Settings.from_env({"N_CTX": "2048", "MAX_NUM_SEQS": "2", "LORAS": f"odd={adapter}"})
    worker = start_worker(settings, load_model(settings))
    yield worker
    worker.engine.close()


async def text_of(worker: Worker, **fields: object) -> str:
    answer = await worker.api.call(CHAT, {"messages": CAPITAL, **GREEDY, **fields})
    assert isinstance(answer, dict)
    return str(answer["choices"][0]["message"]["content"])


async def test_it_changes_what_is_said(worker: Worker) -> None:
    """By its name alone, with the prompt cached for either; without it the model is as it was."""
    texts = [await text_of(worker, model=name) for name in ("demo", "odd", "demo", "odd")]

    assert ["Paris" in text for text in texts] == [True, False, True, False]


@pytest.mark.parametrize(
    "job",
    [
        {"openai_route": CHAT, "openai_input": {"model": "odd", "messages": CAPITAL, **GREEDY}},
        {"model": "odd", "messages": CAPITAL, "sampling_params": GREEDY},
    ],
    ids=["OpenAI's address", "shorthand"],
)
async def test_as_a_job(worker: Worker, job: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    """RunPod's SDK hands the name on."""
    [answer] = (await FakePlatform(monkeypatch).run(worker.api, job))["output"]

    assert answer["model"] == "odd"
    assert "Paris" not in answer["choices"][0]["message"]["content"]


async def test_scores_are_the_adapter_s(worker: Worker) -> None:
    """A prompt has other logprobs with it."""
    body = {"prompt": "The capital of France is Paris.", "echo": True, "logprobs": 0, "max_tokens": 0}
    scores = []
    for name in ("demo", "odd"):
        answer = await worker.api.call(COMPLETIONS, {"model": name, **body})
        assert isinstance(answer, dict)
        scores.append(sum(answer["choices"][0]["logprobs"]["token_logprobs"][1:]))

    assert scores[0] > scores[1]
