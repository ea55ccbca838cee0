"""What SPECULATE makes of the models that are there."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from handler.engine.speculative.draft_model import DraftModel
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.engine.speculative.speculation import DraftLimits
from handler.errors import ConfigError, ModelError
from handler.loading import MAX_DRAFTING_ON_CPU, LoadedModel, load_model
from handler.settings import Settings
from tests.tiny_models import Architecture, write_tiny_model

Paths = Mapping[Architecture, Path]


def load(model: Path, **environ: str) -> LoadedModel:
    return load_model(Settings.from_env({"MODEL": str(model), "MAX_NUM_SEQS": "2", "N_CTX": "256", **environ}))


def close(model: LoadedModel) -> None:
    if model.speculation:
        model.speculation.close()
    model.runner.close()


def test_off(tiny_model_paths: Paths) -> None:
    """By itself nothing is drafted, and nothing is kept ready for it."""
    model = load(tiny_model_paths["llama"])
    assert model.speculation is None
    close(model)


def test_lookup(tiny_model_paths: Paths) -> None:
    """Needs no second model."""
    model = load(tiny_model_paths["gemma3"], SPECULATE="lookup", NUM_DRAFT_TOKENS="3", N_BATCH="128", SWA_FULL="false")
    assert model.speculation is not None
    assert isinstance(model.speculation._drafter, PromptLookup)
    assert model.speculation._limits == DraftLimits(MAX_DRAFTING_ON_CPU, 3, 128)
    close(model)


def test_draft_model(tiny_model_paths: Paths, tmp_path: Path) -> None:
    """A second model of the same vocabulary."""
    draft = write_tiny_model(tmp_path / "draft.gguf", "qwen2")
    model = load(tiny_model_paths["llama"], SPECULATE="draft", DRAFT_MODEL=str(draft))
    assert model.speculation is not None
    assert isinstance(model.speculation._drafter, DraftModel)
    close(model)


def test_draft_model_with_another_vocabulary(tiny_model_paths: Paths) -> None:
    """Its drafts would mean something else."""
    with pytest.raises(ConfigError, match="DRAFT_MODEL has another vocabulary than MODEL"):
        load(tiny_model_paths["llama"], SPECULATE="draft", DRAFT_MODEL=str(tiny_model_paths["gemma3"]))


@pytest.mark.parametrize(("target", "draft"), [("mamba", "llama"), ("jamba", "llama"), ("llama", "mamba")])
def test_models_that_cannot_go_back(target: Architecture, draft: Architecture, tiny_model_paths: Paths) -> None:
    """Each wrong draft would cost them everything."""
    with pytest.raises(ConfigError, match="SPECULATE has value 'draft': recurrent and hybrid models"):
        load(tiny_model_paths[target], SPECULATE="draft", DRAFT_MODEL=str(tiny_model_paths[draft]))


def test_draft_model_that_is_not_there(tiny_model_paths: Paths) -> None:
    """The error says which of the two."""
    with pytest.raises(ModelError, match=r"^DRAFT_MODEL, .*MODEL=/nowhere/draft.gguf: there is no such file"):
        load(tiny_model_paths["llama"], SPECULATE="draft", DRAFT_MODEL="/nowhere/draft.gguf")


def test_draft_model_is_not_looked_for_in_vain() -> None:
    """SPECULATE=off is enough to do without it."""
    with pytest.raises(ConfigError, match="SPECULATE has value 'draft': DRAFT_MODEL must say which model drafts"):
        Settings.from_env({"SPECULATE": "draft"})
    assert Settings.from_env({"DRAFT_MODEL": "demo"}).speculate == "off"
