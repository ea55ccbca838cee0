"""MAX_MODEL_LEN limits one sequence; N_CTX is how many tokens all of them have together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from handler.engine.llama.model_runner import ModelRunner
from handler.errors import ConfigError
from tests.engine.llama.test_model_runner import CONFIG
from tests.tiny_models import Architecture

TRAINED = 512  # tokens, of the tiny models


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
    runner = ModelRunner(tiny_model_paths["llama"], replace(CONFIG, n_ctx=n_ctx, max_model_len=max_model_len))

    assert (runner.num_cells, runner.max_model_len) == (num_cells, limit)
    runner.close()


def test_more_than_the_model_was_made_for(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """Its answers would be noise."""
    with pytest.raises(ConfigError, match=f"MAX_MODEL_LEN has value {TRAINED + 1}: .* at most"):
        ModelRunner(tiny_model_paths["llama"], replace(CONFIG, max_model_len=TRAINED + 1))
