"""The tiny projectors are what tests take them for: mtmd loads them, and an image's embeddings are its own."""

from collections.abc import Iterator
from ctypes import byref, c_ubyte
from pathlib import Path
from typing import get_args

import llama_cpp
import numpy as np
import pytest
from llama_cpp import mtmd_cpp as mtmd

from tests.tiny_models import EMBED, Array
from tests.tiny_projectors import IMAGE_SIZE, TOKENS, Projector, write_seeing_model, write_tiny_projector


class Encoder:
    """A text model and a projector for it, as mtmd has them."""

    def __init__(self, model: Path, projector: Path) -> None:
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = params.warmup = False
        params.n_threads = 1
        self.context = mtmd.mtmd_init_from_file(str(projector).encode(), self.model, params)
        assert self.context is not None

    def close(self) -> None:
        mtmd.mtmd_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def encode(self, seed: int) -> list[Array]:
        """The embeddings of each media chunk of a random image between two words."""
        size = (IMAGE_SIZE, IMAGE_SIZE, 3)
        pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()
        bitmap = mtmd.mtmd_bitmap_init(IMAGE_SIZE, IMAGE_SIZE, (c_ubyte * len(pixels)).from_buffer_copy(pixels))
        assert bitmap is not None
        chunks = mtmd.mtmd_input_chunks_init()
        assert chunks is not None
        text = b"hello" + mtmd.mtmd_default_marker() + b" the"
        try:
            prompt = mtmd.mtmd_input_text(text, len(text), True, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            assert mtmd.mtmd_tokenize(self.context, chunks, byref(prompt), bitmaps, 1) == 0
            return list(self._encoded(chunks))
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _encoded(self, chunks: mtmd.mtmd_input_chunks_p) -> Iterator[Array]:
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            assert chunk is not None
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                assert mtmd.mtmd_encode_chunk(self.context, chunk) == 0
                shape = (mtmd.mtmd_input_chunk_get_n_tokens(chunk), EMBED)
                yield np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.context), shape).copy()


@pytest.fixture(params=get_args(Projector))
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Encoder]:
    model = write_seeing_model(tmp_path / "model.gguf", request.param)
    encoder = Encoder(model, write_tiny_projector(tmp_path / "mmproj-model.gguf", request.param))
    yield encoder
    encoder.close()


def test_tiny_projector(encoder: Encoder) -> None:
    """The same image has the same embeddings, another image others of the same number."""
    first, again, other = (encoder.encode(seed) for seed in (1, 1, 2))

    assert {chunk.shape for chunk in first} == {(TOKENS, EMBED)}
    assert all(map(np.array_equal, first, again))
    assert len(first) == len(other)
    assert all(np.abs(left - right).mean() > 0.1 for left, right in zip(first, other, strict=True))


@pytest.mark.parametrize("projector", get_args(Projector))
def test_same_bytes(projector: Projector, tmp_path: Path) -> None:
    """The same arguments write the same file."""
    files = [write_tiny_projector(tmp_path / name, projector).read_bytes() for name in ("a.gguf", "b.gguf")]

    assert files[0] == files[1]
