"""A context of llama.cpp that pools, with tiny encoders: what a batch gives is what each input gives alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import PoolingType

from handler.embedding.plan import plan_embedding, role_of
from handler.engine.llama.embedding_runner import LlamaEmbeddingRunner
from handler.engine.llama.model import LlamaModel
from handler.engine.model_facts import Offload
from handler.engine.plan import Machine
from handler.settings import Settings
from tests.tiny_encoders import tiny_tokens, write_tiny_encoder
from tests.tiny_models import write_tiny_model

Open = Callable[..., LlamaEmbeddingRunner]
CLS, SEP = 2, 3
ROUNDING = 5e-3  # of vectors with numbers around 1: GELU and attention are in float16 on a CPU


@pytest.fixture
def open_runner() -> Iterator[Open]:
    """Opens a model as the worker does; in the end it is closed."""
    runners: list[LlamaEmbeddingRunner] = []

    def open_runner(path: Path, **environ: str) -> LlamaEmbeddingRunner:
        settings = Settings.from_env({"N_THREADS": "1", **environ})
        model = LlamaModel(path, Offload(n_gpu_layers=0))
        assert role_of(settings, model.facts) != "generate"
        runners.append(LlamaEmbeddingRunner(model, plan_embedding(settings, Machine(1, has_gpu=False), model.facts)))
        return runners[-1]

    yield open_runner
    for runner in runners:
        runner.close()


@pytest.fixture
def encoder(open_runner: Open, tmp_path: Path) -> LlamaEmbeddingRunner:
    return open_runner(write_tiny_encoder(tmp_path / "encoder.gguf"))


def text_of(token_ids: list[int]) -> list[str]:
    return [tiny_tokens()[token_id] for token_id in token_ids]


def test_a_batch_is_what_each_input_is_alone(encoder: LlamaEmbeddingRunner) -> None:
    """Up to the context's 64 tokens, in any company; and equal inputs give equal vectors."""
    texts = ["hello world", "paris is in france", "a " * 62, "hello world", "x"]
    inputs = [encoder.tokenize(text) for text in texts]
    together = encoder.compute(inputs)
    alone = np.concatenate([encoder.compute([token_ids]) for token_ids in inputs])

    assert together.shape == (5, encoder.width) == (5, 32)
    assert len(inputs[2]) == encoder.max_model_len
    np.testing.assert_allclose(together, alone, atol=ROUNDING)
    np.testing.assert_allclose(together[0], together[3], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_as_many_inputs_as_a_batch_may_have(encoder: LlamaEmbeddingRunner) -> None:
    """256 sequences."""
    inputs = [[CLS, SEP]] * encoder.plan.max_batch_seqs
    vectors = encoder.compute(inputs)

    assert len(vectors) == 256
    np.testing.assert_allclose(vectors, vectors[:1].repeat(256, 0), atol=1e-6)


def test_what_spells_a_special_token_is_text(encoder: LlamaEmbeddingRunner) -> None:
    """The model's own ones stand at the ends alone."""
    token_ids = encoder.tokenize("hello [SEP] world")

    assert text_of(token_ids)[:2] == ["[CLS]", "hello"]
    assert token_ids.count(SEP) == 1
    assert token_ids[-1] == SEP
    assert encoder.tokenize("hello", add_special=False) == token_ids[1:2]


def test_a_cut_input_ends_as_others(encoder: LlamaEmbeddingRunner) -> None:
    token_ids = encoder.tokenize("hello world hello world")

    assert text_of(encoder.cut(token_ids, 4)) == ["[CLS]", "hello", "world", "[SEP]"]
    assert encoder.cut(token_ids, 99) == token_ids
    assert encoder.cut([7, 8, 9], 2) == [7, 8]


@pytest.mark.parametrize("pooling", [PoolingType.CLS, PoolingType.LAST])
def test_pooling_of_the_file(open_runner: Open, tmp_path: Path, pooling: PoolingType) -> None:
    """Another one gives other vectors, and POOLING sets it too."""
    tokens = [CLS, 8, 9, 10, SEP]
    of_file = open_runner(write_tiny_encoder(tmp_path / "a.gguf", pooling=pooling)).compute([tokens])
    mean_path = write_tiny_encoder(tmp_path / "b.gguf")
    mean = open_runner(mean_path).compute([tokens])
    set_by_hand = open_runner(mean_path, POOLING=pooling.name.lower()).compute([tokens])

    np.testing.assert_allclose(of_file, set_by_hand, atol=1e-6)
    assert np.abs(of_file - mean).max() > 0.1


def test_a_decoder_with_a_cache(open_runner: Open, tmp_path: Path) -> None:
    """TASK=embed: its last token's state, and nothing is left of the batch before."""
    path = write_tiny_model(tmp_path / "chat.gguf", "qwen2", context_length=128)
    runner = open_runner(path, TASK="embed", N_BATCH="64")
    inputs = [runner.tokenize(text) for text in ("hello", "hello world and the", "x" * 100)]
    together = runner.compute(inputs[:2])
    alone = [runner.compute([token_ids])[0] for token_ids in inputs]

    np.testing.assert_allclose(together, alone[:2], atol=ROUNDING)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_pairs(open_runner: Open, tmp_path: Path) -> None:
    """A query, a separator, a document; the document gives way where both are too long. One score each."""
    runner = open_runner(write_tiny_encoder(tmp_path / "ranker.gguf", pooling=PoolingType.RANK))
    pair = runner.pair("paris", "paris is in france", None)
    scores = runner.compute([pair, runner.pair("paris", "rome", None), pair])

    assert text_of(pair) == ["[CLS]", "paris", "[SEP]", "paris", "is", "in", "france", "[SEP]"]
    assert text_of(runner.pair("paris", "paris is in france", 6)) == ["[CLS]", "paris", "[SEP]", "paris", "is", "[SEP]"]
    assert scores.shape == (3, 1)
    assert scores[0] == pytest.approx(scores[2])
    assert abs(scores[0] - scores[1]) > 1e-3
