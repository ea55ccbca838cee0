"""What SPECULATE makes of the models that are there."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from handler.engine.plan import MAX_DRAFTING_ON_CPU
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.engine.speculative.speculation import DraftLimits, NoSpeculation, Speculation
from handler.errors import ConfigError
from handler.loading import LoadedModel, load_model, start_engine
from handler.settings import Settings
from tests.tiny_models import Architecture

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


@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_models_that_cannot_go_back(architecture: Architecture, tiny_model_paths: Paths) -> None:
    """Each wrong draft would cost them everything."""
    with pytest.raises(ConfigError, match="SPECULATE has value 'lookup': recurrent and hybrid models"):
        load(tiny_model_paths[architecture], SPECULATE="lookup")
