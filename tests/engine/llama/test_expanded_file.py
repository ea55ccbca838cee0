"""Weights that are expanded to 16 bits as they are read: each is the file's, rounded, and llama.cpp loads them."""

import ctypes
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
import pytest

from handler.engine.llama import expanded_file
from handler.engine.llama.backend import start_llama
from handler.engine.llama.expanded_file import ExpandedFile
from handler.engine.llama.ggml import function
from handler.engine.llama.model import LlamaModel
from handler.errors import ModelError
from tests.engine.llama.tiny_engine import ON_CPU
from tests.tiny_models import Architecture, save, write_tiny_model

ROWS, COLUMNS = 12, 512
TOKENS = [5 + place * 7 % 200 for place in range(40)]
BF16 = 32  # llama.h, LLAMA_FTYPE_MOSTLY_BF16
Q4_0, Q8_0 = llama.LLAMA_FTYPE_MOSTLY_Q4_0, llama.LLAMA_FTYPE_MOSTLY_Q8_0
Floats = npt.NDArray[np.float32]

quantize_chunk = function(
    "ggml_quantize_chunk",
    *(ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
)


def write_matrix(path: Path, kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """A file with a vector of five, so that the data is padded, and a matrix; returns the matrix as it is stored."""
    weights = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    block_weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    stored = np.zeros((ROWS, COLUMNS // block_weights * block_bytes), np.uint8)
    quantize_chunk(kind.value, weights.ctypes.data, stored.ctypes.data, 0, ROWS, COLUMNS, None)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("small", np.arange(5, dtype=np.float32))
    writer.add_tensor("matrix.weight", stored, raw_dtype=kind)
    writer.add_tensor("last", np.arange(3, dtype=np.float32))
    save(writer)
    return stored


def read_all(file: ExpandedFile, num_bytes: int) -> bytes:
    """In reads of so many bytes."""
    data = np.zeros(file.size, np.uint8)
    position = 0
    while position < file.size:
        wanted = min(num_bytes, file.size - position)
        num_read = file.read_into(data.ctypes.data + position, position, wanted)
        assert 0 < num_read <= wanted
        position += num_read
    assert file.read_into(data.ctypes.data, position, 1) == 0
    return data.tobytes()


def rounded(weights: Floats) -> npt.NDArray[np.uint16]:
    """To BF16, to the nearest, ties to even: written from the definition."""
    bits = weights.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_each_weight_is_the_files_rounded(kind: str, tmp_path: Path) -> None:
    """By the definition of each type in another library; what is not quantised stays as it is."""
    number = gguf.GGMLQuantizationType[kind]
    stored = write_matrix(tmp_path / "model.gguf", number)
    with closing(ExpandedFile([tmp_path / "model.gguf"], 2)) as file:
        (tmp_path / "expanded.gguf").write_bytes(read_all(file, 1 << 20))

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "expanded.gguf").tensors}
    assert list(tensors) == ["small", "matrix.weight", "last"]
    assert tensors["matrix.weight"].tensor_type == gguf.GGMLQuantizationType.BF16
    expected = rounded(gguf.quants.dequantize(stored, number))
    np.testing.assert_array_equal(tensors["matrix.weight"].data.view(np.uint16).reshape(ROWS, COLUMNS), expected)
    assert tensors["small"].data.tolist() == [0, 1, 2, 3, 4]
    assert tensors["last"].data.tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_bytes", [1, 33, 1000, 4096])
def test_any_reads_give_the_same_bytes(num_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones and odd ones, expanded at once or ahead in several pieces."""
    write_matrix(tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q4_K)
    with closing(ExpandedFile([tmp_path / "model.gguf"], 2)) as file:
        expected = read_all(file, 1 << 20)
    monkeypatch.setattr(expanded_file, "SMALL", 512)
    monkeypatch.setattr(expanded_file, "CHUNK", 256)
    monkeypatch.setattr(expanded_file, "PIECE_BYTES", 1024)
    with closing(ExpandedFile([tmp_path / "model.gguf"], 2)) as file:
        assert read_all(file, num_bytes) == expected


def test_the_embedding_is_expanded_only_where_it_is_the_output_too(tmp_path: Path) -> None:
    """Otherwise its rows are looked up, and would only be larger."""
    for name, others in {"tied": (), "apart": ("output.weight",)}.items():
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        for tensor in ("token_embd.weight", *others):
            writer.add_tensor(tensor, np.zeros((4, 18), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        save(writer)
    for name, expected in {"tied": [True], "apart": [False, True]}.items():
        with closing(ExpandedFile([tmp_path / name], 1)) as file:
            assert [place.type is not None for place in file._header.tensors] == expected


def quantised(path: Path, kind: int, **more: int) -> Path:
    """llama.cpp's own program for it."""
    start_llama()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = kind, 1, True
    for name, value in more.items():
        setattr(params, name, value)
    target = path.with_name(f"{path.stem}-{kind}.gguf")
    assert llama.llama_model_quantize(str(path).encode(), str(target).encode(), params) == 0
    return target


def logits(model: LlamaModel) -> Floats:
    """Of each of TOKENS."""
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 64, 64, 64
    params.n_outputs_max = 64
    params.n_threads = params.n_threads_batch = 1
    context = llama.llama_init_from_model(model.pointer, params)
    batch: Any = llama.llama_batch_init(len(TOKENS), 0, 1)
    batch.n_tokens = len(TOKENS)
    for place, token in enumerate(TOKENS):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
        batch.seq_id[place][0], batch.logits[place] = 0, 1
    assert llama.llama_decode(context, batch) == 0
    num_tokens = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.pointer))
    rows = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(len(TOKENS), num_tokens)).copy()
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    model.close()
    return rows


@pytest.mark.parametrize("kind", [Q4_0, Q8_0])
def test_a_model_computes_as_one_that_llama_cpp_expanded(
    kind: int, tmp_path: Path, tiny_model_paths: Mapping[Architecture, Path]
) -> None:
    """To the bit: all of its tensors came, to the right places."""
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny_model_paths["llama"].read_bytes())
    small = quantised(model, kind)
    with closing(ExpandedFile([small], 2)) as file:
        ours = logits(LlamaModel(small, ON_CPU, source=file))
    theirs = logits(LlamaModel(quantised(small, BF16, token_embedding_type=TYPES[kind]), ON_CPU))

    np.testing.assert_array_equal(ours, theirs)


TYPES = {Q4_0: llama.GGML_TYPE_Q4_0, Q8_0: llama.GGML_TYPE_Q8_0}


def test_a_file_without_quantised_matrices_stays_as_it_is(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """Whatever the architecture: the stream is the file, as far as llama.cpp can tell."""
    for path in tiny_model_paths.values():
        with closing(ExpandedFile([path], 2)) as file:
            assert file.num_expanded == 0
            np.testing.assert_array_equal(
                logits(LlamaModel(path, ON_CPU, source=file)), logits(LlamaModel(path, ON_CPU))
            )


def test_a_split_model_becomes_one(tmp_path: Path) -> None:
    whole = write_tiny_model(tmp_path / "whole.gguf", "llama")
    reader = gguf.GGUFReader(whole)
    parts = [tmp_path / f"model-{number:05}-of-00002.gguf" for number in (1, 2)]
    for number, part in enumerate(parts):
        writer = gguf.GGUFWriter(part, "llama")
        if number == 0:
            copy_metadata(reader, writer)
        writer.add_uint16("split.count", len(parts))
        writer.add_uint16("split.no", number)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number :: len(parts)]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        save(writer)
    with closing(ExpandedFile(parts, 2)) as file:
        np.testing.assert_array_equal(
            logits(LlamaModel(parts[0], ON_CPU, source=file)), logits(LlamaModel(whole, ON_CPU))
        )


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path, tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """Which says so, and ends neither the process nor waits for ever."""
    model = tmp_path / "model.gguf"
    data = tiny_model_paths["llama"].read_bytes()
    model.write_bytes(data)
    with closing(ExpandedFile([model], 2)) as file:
        model.write_bytes(data[: len(data) // 2])
        with pytest.raises(ModelError, match="the file ends within a tensor"):
            LlamaModel(model, ON_CPU, source=file)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ModelError, match="cannot read the header"):
        ExpandedFile([tmp_path / "text"], 1)
