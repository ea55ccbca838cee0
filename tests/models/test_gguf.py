"""Telling a whole GGUF file from anything else."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from handler.errors import ModelError
from handler.models.gguf import BLOCKS, check_gguf
from tests.models.model_server import make_gguf


@pytest.fixture
def written_by_gguf(tmp_path: Path) -> Path:
    """A file of the `gguf` package, with every kind of metadata and its own alignment."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_context_length(128)
    writer.add_token_list([f"token {index}" for index in range(1000)])
    writer.add_token_scores([0.5] * 1000)
    writer.add_add_bos_token(True)
    writer.add_tensor("small", np.ones(3, dtype=np.float32))
    writer.add_tensor("large", np.ones((8, 36), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        check_gguf(path)
    return str(caught.value)


def test_whole_file_passes(written_by_gguf: Path) -> None:
    """A file with strings, arrays, scalars and quantised tensors is read to its end."""
    check_gguf(written_by_gguf)


def test_missing_weights_are_found(written_by_gguf: Path) -> None:
    """A file that ends within its last tensor is truncated, and the message says by how much."""
    whole = written_by_gguf.read_bytes().rstrip(b"\0")
    last_tensor_ends = len(whole)
    message = refusal(written_by_gguf, whole[:-1])
    assert f"truncated: it has {last_tensor_ends - 1:,} bytes of {last_tensor_ends:,}" in message


def test_missing_metadata_are_found(written_by_gguf: Path) -> None:
    """A file that ends within its header is told from one that is whole."""
    assert "truncated or damaged header" in refusal(written_by_gguf, written_by_gguf.read_bytes()[:5000])


@pytest.mark.parametrize("content", [b"", b"GG", b"<!DOCTYPE html>"], ids=["empty", "short", "web page"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """What does not begin with GGUF is named as such."""
    assert "is not a GGUF file" in refusal(tmp_path / "model.gguf", content)


def test_absurd_lengths_are_refused(tmp_path: Path) -> None:
    """A damaged length ends in an error, not in a walk through memory."""
    absurd = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**64 - 1)
    assert "damaged header" in refusal(tmp_path / "model.gguf", absurd)


def test_tensors_of_many_dimensions_are_refused(tmp_path: Path) -> None:
    """ggml knows four; a number of some hundred thousand would multiply for minutes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t"
    absurd = head + struct.pack("<I", 80_000) + 80_000 * struct.pack("<Q", 2**64 - 1) + struct.pack("<IQ", 0, 0)
    assert "damaged header" in refusal(tmp_path / "model.gguf", absurd)


def test_future_versions_are_left_to_llama_cpp(tmp_path: Path) -> None:
    """An unknown version is not refused here."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 4) + b"whatever")
    check_gguf(path)


def test_missing_file_is_explained(tmp_path: Path) -> None:
    """A file that cannot be read is a ModelError too."""
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        check_gguf(tmp_path / "model.gguf")


def test_helper_writes_whole_files(tmp_path: Path) -> None:
    """The files the other tests serve are GGUF files by the `gguf` package's own reader."""
    path = tmp_path / "model.gguf"
    path.write_bytes(make_gguf(64))
    assert [tensor.n_elements for tensor in gguf.GGUFReader(path).tensors] == [64]


def test_block_sizes_are_those_of_ggml() -> None:
    """Our table of tensor types agrees with the `gguf` package's."""
    assert {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()} == BLOCKS
