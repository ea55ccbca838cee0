"""From a file and a plan to a model and a context, and what llama.cpp refuses."""

from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest

from handler.engine.cache.cache_size import GIB, CacheShape
from handler.engine.llama import model as llama_model
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.model_facts import ModelFacts, Offload
from handler.engine.plan import EnginePlan, Machine, plan
from handler.errors import ModelError
from handler.settings import Settings
from tests.engine.llama.tiny_engine import ON_CPU, open_runner
from tests.tiny_models import HEAD, KV_HEADS, write_tiny_model

ONE_GPU = Machine(num_cores=1, has_gpu=True, free_gpu_bytes=(2 * GIB,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "m.gguf", "llama")


def planned(model: LlamaModel, **environ: str) -> EnginePlan:
    """As on a machine with a GPU; but sampling and steps are the CPU's, which is what there is."""
    settings = {"MAX_NUM_SEQS": "1", "N_BATCH": "32", "FLASH_ATTN": "on", **environ}
    return plan(Settings.from_env(settings), ONE_GPU, model.facts)


@pytest.mark.parametrize("cache_type", ["q8_0", "q4_0"])
def test_a_cache_that_llama_refuses(cache_type: str, path: Path) -> None:
    """Without flash attention values cannot be quantised: the error has its words, and what can be set."""
    with pytest.raises(ModelError, match=rf"{cache_type} .*flash_attn.*CACHE_TYPE_V"):
        open_runner(path, flash_attn="off", cache_type=cache_type)


def test_a_choice_that_llama_refuses_is_halved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it fits; a size that was set is not changed."""
    make = llama.llama_init_from_model
    monkeypatch.setattr(llama, "llama_init_from_model", lambda model, p: p.n_ctx <= 1024 and make(model, p))
    model = LlamaModel(path, ON_CPU)
    runner = ModelRunner(model, planned(model))
    assert runner.num_cells == 1024
    runner.close()
    for settings in ({"N_CTX": "2048"}, {"MAX_NUM_SEQS": "4", "KV_UNIFIED": "off"}):
        model = LlamaModel(path, ON_CPU)
        with pytest.raises(ModelError, match="tokens as f16/f16"):
            ModelRunner(model, planned(model, **settings))


def test_a_load_tells_how_far_it_is(path: Path) -> None:
    """From nothing to all, never back."""
    shares: list[float] = []
    LlamaModel(path, ON_CPU, shares.append).close()

    assert shares == sorted(shares)
    assert (shares[0] < 0.5, shares[-1]) == (True, 1.0)


def test_the_facts_of_a_model(path: Path) -> None:
    """Read from what llama.cpp has loaded."""
    model = LlamaModel(path, ON_CPU)
    shape = CacheShape(2, KV_HEADS * HEAD, KV_HEADS * HEAD, HEAD)
    assert model.facts == ModelFacts(512, window=0, has_states=False, cache_shape=shape, is_causal=True, pooling=None)
    model.close()


def test_the_choice_uses_what_is_free(path: Path) -> None:
    """On a machine with GPUs the cache is as large as their memory allows."""
    model = LlamaModel(path, ON_CPU)
    runner = ModelRunner(model, planned(model))
    assert runner.num_cells == 2 * 4096
    runner.close()


def test_a_model_larger_than_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and what would help."""
    monkeypatch.setattr(llama_model, "free_gpu_bytes", lambda: [1000])
    broken = tmp_path / "m.gguf"
    broken.write_bytes(b"GGUF" + bytes(4000))
    with pytest.raises(ModelError, match="smaller quantisation"):
        LlamaModel(broken, Offload())
