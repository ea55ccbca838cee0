"""The model's own facts: its vocabulary, its limits, and what cannot be loaded."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.slot import Slot
from handler.engine.llama.log import CONTINUATION, LlamaLog
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.errors import ModelError
from tests.engine.llama.tiny_engine import ON_CPU, open_runner, run
from tests.tiny_models import ARCHITECTURES, BOS, CHATML, EOS, Architecture, write_tiny_model


@pytest.fixture(params=ARCHITECTURES)
def runner(request: pytest.FixtureRequest, tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[ModelRunner]:
    runner = open_runner(tiny_model_paths[request.param])
    yield runner
    runner.close()


def test_text_becomes_tokens_and_text_again(runner: ModelRunner) -> None:
    """The pieces of a text's tokens are the text; special tokens are known as such and have no text."""
    vocabulary = runner.vocabulary
    token_ids = runner.tokenize("<|im_start|>héllo 🙂<|im_end|>")
    assert (token_ids[0], token_ids[-1]) == (BOS, EOS)
    assert b"".join(map(vocabulary.piece, token_ids)).decode() == "héllo 🙂"


def test_beginning_of_text_is_written_once(runner: ModelRunner) -> None:
    """A chat template that writes the model's first token does not double it."""
    assert runner.tokenize("<|startoftext|>hello") == runner.tokenize("hello")
    assert runner.tokenize("hello").count(BOS) == 1


def test_lone_surrogates_are_tokenized(runner: ModelRunner) -> None:
    """JSON may hold half a character; the request does not fail for it."""
    assert runner.tokenize("a\ud83d")


def test_ends_of_generation(runner: ModelRunner) -> None:
    """All tokens that end an answer are known."""
    assert runner.vocabulary.end_of_generation == {2, EOS}


def test_a_file_may_have_a_template_for_tools(tmp_path: Path) -> None:
    """By its name beside the default one, as llama.cpp looks it up."""
    templates = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "{{ tools }}"}]
    runner = open_runner(write_tiny_model(tmp_path / "m.gguf", "llama", chat_template=templates))
    assert (runner.chat_template(), runner.chat_template("tool_use")) == (CHATML, "{{ tools }}")
    runner.close()


def test_chat_template(runner: ModelRunner) -> None:
    """The template stored in the file."""
    assert runner.chat_template() == CHATML
    assert runner.chat_template("tool_use") is None


def test_limits(runner: ModelRunner) -> None:
    """A sequence may be as long as the cache."""
    assert (runner.num_cells, runner.max_model_len) == (256, 256)


def test_sequences_end_where_training_did(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """A larger cache holds more sequences, not longer ones."""
    runner = open_runner(tiny_model_paths["llama"], n_ctx=2048)
    assert (runner.num_cells, runner.max_model_len) == (2048, 512)
    runner.close()


def test_model_without_template_or_beginning(tmp_path: Path) -> None:
    """Neither is made up."""
    runner = open_runner(write_tiny_model(tmp_path / "m.gguf", "llama", chat_template=None, add_bos=False))
    assert runner.chat_template() is None
    assert BOS not in runner.tokenize("hello")
    runner.close()


@pytest.mark.parametrize(
    ("architecture", "swa_full", "shares_prefixes", "goes_back"),
    [
        ("llama", True, True, True),
        ("gemma3", True, True, True),
        ("gemma3", False, False, True),
        ("mamba", True, False, False),
        ("jamba", True, False, False),
    ],
)
def test_memory_knows_what_it_can(
    architecture: Architecture,
    swa_full: bool,
    shares_prefixes: bool,
    goes_back: bool,
    tiny_model_paths: Mapping[Architecture, Path],
) -> None:
    """Recurrent states cannot go back, and neither they nor the cells of a small window's cache can be shared."""
    runner = open_runner(tiny_model_paths[architecture], swa_full=swa_full)
    memory = runner.memory
    compute(runner, [BOS] * 10)
    assert memory.shares_prefixes is shares_prefixes
    assert memory.can_resume(0, 10)
    assert memory.can_resume(0, 5) is goes_back
    assert memory.truncate(0, 5) is goes_back
    runner.close()


def compute(runner: ModelRunner, token_ids: list[int]) -> None:
    """The tokens, in slot 0."""
    params = SamplingParams(temperature=0)
    sampler = runner.make_sampler(params, token_ids)
    sequence = Sequence(token_ids, params, vocabulary=runner.vocabulary, max_num_tokens=100, sampler=sampler)
    sequence.slot = Slot(0)
    run(runner, Batch([ScheduledSequence(sequence, 0, len(token_ids))]))
    sequence.close()


def test_file_that_is_no_model(tmp_path: Path) -> None:
    """The error says what llama.cpp said."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF and nothing else")
    with pytest.raises(ModelError, match=r"cannot load .*m\.gguf"):
        LlamaModel(path, ON_CPU)


def test_log_is_forwarded_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    """Pieces of a line become one record, and the last error is remembered."""
    llama_log = LlamaLog()
    with caplog.at_level(logging.DEBUG, logger="llama.cpp"):
        llama_log(2, b"loading ", None)
        llama_log(CONTINUATION, b"done\n", None)
        llama_log(4, b"no such tensor\n", None)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.DEBUG, "loading done"),
        (logging.ERROR, "no such tensor"),
    ]
    assert llama_log.last_error == "no such tensor"
