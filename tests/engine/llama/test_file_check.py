"""Damaged model files: llama.cpp's own reason in one line, and never the end of the process."""

import struct
from pathlib import Path

import pytest

from handler.engine.llama.file_check import FileCheck, reason_in
from handler.errors import ModelError
from handler.loading import load_model
from handler.models.checked import FOLDER, MAX_MARKS, note
from handler.settings import Settings
from tests.tiny_models import write_tiny_model

Damage = tuple[str, str, int | bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_model(tmp_path_factory.mktemp("whole") / "m.gguf", "llama").read_bytes()


def with_number(content: bytes, key: str, number: int) -> bytes:
    """The file with another value of a 32-bit key."""
    at = content.index(key.encode()) + len(key) + 4
    return content[:at] + struct.pack("<I", number) + content[at + 4 :]


def settings_of(path: Path) -> Settings:
    environ = {"MODEL": str(path), "N_CTX": "256", "MAX_NUM_SEQS": "2", "MODELS_DIR": str(path.parent / "models")}
    return Settings.from_env(environ)


@pytest.mark.parametrize("num_layers", [0, 600, 2**32 - 1])
def test_what_llama_cpp_asserts(whole: bytes, tmp_path: Path, num_layers: int) -> None:
    """It would abort: the child does, and this process says why."""
    path = tmp_path / "m.gguf"
    path.write_bytes(with_number(whole, "llama.block_count", num_layers))
    with pytest.raises(ModelError, match=r"cannot load .*m\.gguf: GGML_ASSERT\(.*\) failed$"):
        load_model(settings_of(path))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"llama", b"lorem", "unknown model architecture: 'lorem'"),
        (b"output_norm.weight", b"output_nrom.weight", "tensor 'output_norm.weight' not found"),
        (b"llama.embedding_length", b"llama.embedding_lenght", "key not found in model: llama.embedding_length"),
    ],
)
def test_what_llama_cpp_says_in_two_lines(whole: bytes, tmp_path: Path, old: bytes, new: bytes, reason: str) -> None:
    """The reason is in the first; the last says only that loading failed."""
    path = tmp_path / "m.gguf"
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(ModelError) as caught:
        load_model(settings_of(path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 2**32 - 1])
def test_a_context_without_tokens(whole: bytes, tmp_path: Path, length: int) -> None:
    """A worker that could only refuse does not start."""
    path = tmp_path / "m.gguf"
    path.write_bytes(with_number(whole, "llama.context_length", length))
    with pytest.raises(ModelError, match="context has no tokens"):
        load_model(settings_of(path))


def test_once_per_file(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start asks no child, until the file is another."""
    tried: list[Path] = []

    class Counting(FileCheck):
        def __init__(self, path: Path) -> None:
            tried.append(path)
            super().__init__(path)

    monkeypatch.setattr("handler.weights.FileCheck", Counting)
    path = tmp_path / "m.gguf"
    for content in (whole, whole, whole + b"\0"):
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
        load_model(settings_of(path)).runner.close()
    assert len(tried) == 2


def test_a_directory_that_takes_no_marks(whole: bytes, tmp_path: Path) -> None:
    """The file is tried each time, and loads."""
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    (tmp_path / "models").write_text("no directory")
    load_model(settings_of(path)).runner.close()


def test_old_marks_go(tmp_path: Path) -> None:
    """Files come and go; their marks do not pile up."""
    for number in range(MAX_MARKS + 5):
        note(tmp_path / FOLDER / str(number))
    assert len(list((tmp_path / FOLDER).iterdir())) == MAX_MARKS


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (["llama_model_load: error loading model: no such key", "failed to load model"], "no such key"),
        (["x.cpp:5: GGML_ASSERT(a > 0) failed", "0x1 in main"], "GGML_ASSERT(a > 0) failed"),
        (["gguf_init: bad magic", "failed"], "bad magic"),
        (["", "  "], ""),
    ],
)
def test_the_line_with_the_reason(errors: list[str], reason: str) -> None:
    """Wherever it stands among the others."""
    assert reason_in(errors) == reason
