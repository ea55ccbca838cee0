"""What a worker does with a model, and the sizes of its context, from settings and the file."""

import pytest

from handler.embedding.plan import plan_embedding, role_of
from handler.engine.cache.cache_size import CacheShape
from handler.engine.model_facts import ModelFacts
from handler.engine.plan import Machine
from handler.errors import ConfigError
from handler.settings import Settings

CPU, GPU = Machine(2, has_gpu=False), Machine(16, has_gpu=True)
CHAT = ModelFacts(n_ctx_train=32768, window=0, has_states=False, cache_shape=CacheShape(28, 512, 512, 128))
BERT = CHAT._replace(n_ctx_train=512, is_causal=False, pooling="cls")
QWEN = CHAT._replace(pooling="last")
RANKER = BERT._replace(pooling="rank")


@pytest.mark.parametrize(
    ("model", "task", "role"),
    [
        (CHAT, "auto", "generate"),
        (BERT, "auto", "embed"),
        (BERT._replace(pooling=None), "auto", "embed"),
        (QWEN, "auto", "embed"),
        (RANKER, "auto", "rerank"),
        (QWEN, "generate", "generate"),
        (CHAT, "embed", "embed"),
    ],
)
def test_the_file_says_the_role(model: ModelFacts, task: str, role: str) -> None:
    """Unless TASK says another that the model can."""
    assert role_of(Settings.from_env({"TASK": task}), model) == role


@pytest.mark.parametrize(("model", "task"), [(BERT, "generate"), (CHAT, "rerank"), (RANKER, "embed"), (BERT, "rerank")])
def test_roles_that_the_model_cannot_have(model: ModelFacts, task: str) -> None:
    """The worker does not start."""
    with pytest.raises(ConfigError, match=f"TASK has value '{task}'"):
        role_of(Settings.from_env({"TASK": task}), model)


@pytest.mark.parametrize(
    ("model", "settings", "pooling"),
    [
        (BERT, {}, "cls"),
        (BERT._replace(pooling=None), {}, "mean"),
        (CHAT, {"TASK": "embed"}, "last"),
        (BERT, {"POOLING": "mean"}, "mean"),
        (RANKER, {}, "rank"),
    ],
)
def test_pooling(model: ModelFacts, settings: dict[str, str], pooling: str) -> None:
    """As set, as the file says, or what is usual for such a model."""
    assert plan_embedding(Settings.from_env(settings), CPU, model).pooling == pooling


def test_a_batch_is_computed_in_one_piece() -> None:
    """The context has room for the longest input, and for a batch of short ones, whichever is more."""
    short = plan_embedding(Settings.from_env({}), GPU, BERT)
    long = plan_embedding(Settings.from_env({}), CPU, QWEN)
    own = plan_embedding(Settings.from_env({"MAX_MODEL_LEN": "100", "N_BATCH": "50"}), CPU, QWEN)

    assert (short.max_len, short.max_batch_tokens, short.capacity) == (512, 4096, 4096)
    assert (long.max_len, long.max_batch_tokens, long.capacity) == (2048, 512, 2048)
    assert (own.max_len, own.max_batch_tokens, own.capacity) == (100, 50, 100)


def test_an_input_cannot_be_longer_than_the_model_was_made_for() -> None:
    with pytest.raises(ConfigError, match="MAX_MODEL_LEN has value 1000: this model was made for 512 at most"):
        plan_embedding(Settings.from_env({"MAX_MODEL_LEN": "1000"}), CPU, BERT)
