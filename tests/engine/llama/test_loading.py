"""What SPECULATE and WEIGHTS make of the models that are there."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest

from handler import loading
from handler.assembly import adapter_names
from handler.engine.llama.backend import start_llama
from handler.engine.llama.model import LlamaModel
from handler.engine.plan import MAX_DRAFTING_ON_CPU
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.engine.speculative.speculation import DraftLimits, NoSpeculation, Speculation
from handler.errors import ConfigError, ModelError
from handler.loading import LoadedModel, load_model, start_engine
from handler.loading_thread import LOADING
from handler.settings import Settings
from tests.engine.fakes import TIMEOUT
from tests.tiny_models import Architecture, write_tiny_adapter
from tests.tiny_projectors import TOKENS, Projector, write_tiny_projector

Paths = Mapping[Architecture, Path]


def load(model: Path, **environ: str) -> LoadedModel:
    return load_model(Settings.from_env({"MODEL": str(model), "MAX_NUM_SEQS": "2", "N_CTX": "256", **environ}))


def test_off(tiny_model_paths: Paths) -> None:
    """By itself nothing is drafted, and nothing is kept ready for it."""
    model = load(tiny_model_paths["llama"])
    engine = start_engine(model, max_queue=1)
    assert isinstance(engine._speculation, NoSpeculation)
    engine.close()


def test_lookup(tiny_model_paths: Paths) -> None:
    """Drafts are as long, and batches as large, as the settings say."""
    model = load(tiny_model_paths["gemma3"], SPECULATE="lookup", NUM_DRAFT_TOKENS="3", N_BATCH="128", SWA_FULL="false")
    engine = start_engine(model, max_queue=1)
    assert isinstance(engine._speculation, Speculation)
    assert isinstance(engine._speculation._drafter, PromptLookup)
    assert engine._speculation._limits == DraftLimits(MAX_DRAFTING_ON_CPU, 3, 128)
    engine.close()


@pytest.mark.parametrize("weights", ["file", "16bit", "auto"])
def test_adapters(weights: str, tiny_model_paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LORAS names them, and they are found as models are; a second copy of the weights for prompts has them too."""
    monkeypatch.setattr(loading, "supports_gpu", lambda: True)
    monkeypatch.setattr(loading, "has_room_to_expand", lambda *_: True)
    loaded: list[list[str]] = []
    load_adapters = LlamaModel.load_adapters

    def note(model: LlamaModel, paths: Mapping[str, Path]) -> None:
        load_adapters(model, paths)
        loaded.append(list(model.adapters))

    monkeypatch.setattr(LlamaModel, "load_adapters", note)
    path = quantised(tiny_model_paths["llama"], tmp_path / "small.gguf")
    write_tiny_adapter(tmp_path / "sql.gguf", "llama")
    environ = {"LORAS": "sql=sql.gguf", "MODELS_DIR": str(tmp_path), "WEIGHTS": weights}
    engine = start_engine(load(path, N_CTX="1024", KV_UNIFIED="off", **environ), max_queue=1)
    for thread in threading.enumerate():
        if thread.name == LOADING:
            thread.join(TIMEOUT)
    engine.close()

    assert loaded == (2 if weights == "auto" else 1) * [["sql"]]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nothing.gguf", ModelError, "adapter 'sql', which is found as a model is: .*there is no such file"),
        ("nothing", ConfigError, "adapter 'sql', which is named as a model is: MODEL has value 'nothing'"),
        ("model.gguf", ModelError, "cannot load adapter 'sql' .*general.type"),
    ],
)
def test_an_adapter_that_is_none(
    source: str, error: type[Exception], message: str, tiny_model_paths: Paths, tmp_path: Path
) -> None:
    """Stops the start."""
    shutil.copy(tiny_model_paths["llama"], tmp_path / "model.gguf")
    with pytest.raises(error, match=message):
        load(tiny_model_paths["llama"], LORAS=f"sql={source}", MODELS_DIR=str(tmp_path))


def test_an_adapter_needs_a_name_of_its_own() -> None:
    """A request could not choose between it and the model."""
    settings = Settings.from_env({"LORAS": "sql=a.gguf,demo=b.gguf"})
    with pytest.raises(ConfigError, match="adapter by the name 'demo', which is the model's"):
        adapter_names(settings)
    assert adapter_names(settings.model_copy(update={"model_alias": ("llama",)})) == ("sql", "demo")


def quantised(path: Path, target: Path) -> Path:
    start_llama()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = llama.LLAMA_FTYPE_MOSTLY_Q4_0, 1
    assert llama.llama_model_quantize(str(path).encode(), str(target).encode(), params) == 0
    return target


@pytest.mark.parametrize("weights", ["auto", "file", "16bit"])
def test_weights(
    weights: str,
    tiny_model_paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """auto: once the engine works, prompts beside answers are computed with a copy in 16 bits. Without a GPU, which is
    played here, it is as file."""
    caplog.set_level("INFO")
    path = quantised(tiny_model_paths["llama"], tmp_path / "small.gguf")
    monkeypatch.setattr(loading, "supports_gpu", lambda: True)
    monkeypatch.setattr(loading, "has_room_to_expand", lambda *_: True)
    model = load(path, N_CTX="1024", KV_UNIFIED="off", WEIGHTS=weights)
    engine = start_engine(model, max_queue=1)
    for thread in threading.enumerate():
        if thread.name == LOADING:
            thread.join(TIMEOUT)
    engine.close()

    assert ("matrices are expanded" in caplog.text) == (weights == "16bit")
    assert ("prompts will be computed with 16-bit weights" in caplog.text) == (weights == "auto")
    assert engine._lane.is_exact == (weights != "auto")


def test_weights_without_room(
    tiny_model_paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, and the worker is as it would be with file."""
    caplog.set_level("INFO")
    path = quantised(tiny_model_paths["llama"], tmp_path / "small.gguf")
    monkeypatch.setattr(loading, "supports_gpu", lambda: True)
    model = load(path, N_CTX="1024", KV_UNIFIED="off", WEIGHTS="auto")
    engine = start_engine(model, max_queue=1)
    engine.close()

    assert model.expansion is None
    assert engine._lane.is_exact
    assert "no room for a second copy of the weights" in caplog.text


def test_weights_that_have_16_bits(
    tiny_model_paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing to expand, and nothing to say about it."""
    caplog.set_level("INFO")
    monkeypatch.setattr(loading, "supports_gpu", lambda: True)
    monkeypatch.setattr(loading, "has_room_to_expand", lambda *_: True)
    model = load(tiny_model_paths["llama"], N_CTX="1024", KV_UNIFIED="off", WEIGHTS="auto")
    start_engine(model, max_queue=1).close()

    assert model.expansion is None
    assert "second copy" not in caplog.text


@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_models_that_cannot_go_back(architecture: Architecture, tiny_model_paths: Paths) -> None:
    """Each wrong draft would cost them everything."""
    with pytest.raises(ConfigError, match="SPECULATE has value 'lookup': recurrent and hybrid models"):
        load(tiny_model_paths[architecture], SPECULATE="lookup")


def test_threads_that_load_have_one_name() -> None:
    """By which the end of the process knows them."""
    assert LOADING == loading.LOADING


def beside(model: Path, folder: Path, projector: Projector) -> Path:
    """A copy of the model with a projector beside it."""
    copy = folder / "model.gguf"
    copy.write_bytes(model.read_bytes())
    write_tiny_projector(folder / "mmproj-model.gguf", projector)
    return copy


def test_a_projector_beside_the_model(tiny_model_paths: Paths, tmp_path: Path) -> None:
    """The model sees with it, and a step holds one of its images; MMPROJ=off leaves it out."""
    path = beside(tiny_model_paths["gemma3"], tmp_path, "gemma3")
    for environ, sees in ((dict[str, str](), True), ({"MMPROJ": "off"}, False)):
        model = load(path, N_BATCH="8", **environ)
        engine = start_engine(model, max_queue=1)
        assert engine.sees == sees
        assert (model.plan.context.n_ubatch >= TOKENS) == sees
        engine.close()


def test_a_projector_that_does_not_fit(
    tiny_model_paths: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that lies there is another model's: the log says so. One that was set stops the start."""
    path = beside(tiny_model_paths["llama"], tmp_path, "idefics3")
    engine = start_engine(load(path), max_queue=1)
    assert not engine.sees
    engine.close()
    assert "serves without images" in caplog.text
    with pytest.raises(ModelError, match="vocabulary lacks"):
        load(path, MMPROJ=str(tmp_path / "mmproj-model.gguf"))
