"""MAX_MODEL_LEN limits one sequence; N_CTX is how many tokens all of them have together."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from handler.errors import ConfigError
from handler.loading import LoadedModel, load_model
from handler.settings import Settings
from tests.tiny_models import Architecture

TRAINED = 512  # tokens, of the tiny models


def load(path: Path, **settings: int) -> LoadedModel:
    environ = {"MODEL": str(path), "N_GPU_LAYERS": "0", "MAX_NUM_SEQS": "2"}
    return load_model(Settings.from_env(environ | {name: str(value) for name, value in settings.items()}))


@pytest.mark.parametrize(
    ("n_ctx", "max_model_len", "num_cells", "limit"),
    [
        (256, 0, 256, 256),
        (1024, 0, 1024, TRAINED),
        (256, 100, 256, 100),
        (0, 0, TRAINED, TRAINED),
        (0, 100, TRAINED, 100),
    ],
)
def test_limit_of_a_sequence(
    n_ctx: int, max_model_len: int, num_cells: int, limit: int, tiny_model_paths: Mapping[Architecture, Path]
) -> None:
    """What is set, else the smaller one of cache and training."""
    runner = load(tiny_model_paths["llama"], N_CTX=n_ctx, MAX_MODEL_LEN=max_model_len).runner
    assert (runner.num_cells, runner.max_model_len) == (num_cells, limit)
    runner.close()


def test_more_than_the_model_was_made_for(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """Its answers would be noise."""
    with pytest.raises(ConfigError, match=f"MAX_MODEL_LEN has value {TRAINED + 1}: .* at most"):
        load(tiny_model_paths["llama"], MAX_MODEL_LEN=TRAINED + 1)
