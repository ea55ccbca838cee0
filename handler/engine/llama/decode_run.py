"""A media run's embeddings into a context's memory."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.llama.model import Pointer
from handler.engine.media_run import MediaRun

UNUSED_SECTIONS = 1  # of the four positions that a token has in two dimensions: time, row, column, and none


def decode_run(context: Pointer, run: MediaRun, seq_id: int, position: int, n_batch: int) -> int:
    """Append it to a slot; what `llama_decode` returns. Where that is not 0, a part of it may be there.

    `position` is that of its first token. Attention within it is as the run says, and causal again afterwards. A run
    that is not causal must fit one ubatch, or llama.cpp aborts the process. Engine thread only.
    """
    positions = _positions(run, position)
    assert run.is_causal or run.num_tokens <= n_batch, "prompts with longer ones are refused"
    llama.llama_set_causal_attn(context, run.is_causal)
    try:
        for start in range(0, run.num_tokens, n_batch):
            part = slice(start, start + n_batch)
            if code := _decode(context, run.embeddings[part], positions[:, part], seq_id):
                return code
    finally:
        llama.llama_set_causal_attn(context, True)
    return 0


def _positions(run: MediaRun, position: int) -> npt.NDArray[np.int32]:
    """(1, num_tokens); for models that place an image in two dimensions (4, num_tokens)."""
    if run.grid is None:
        return np.arange(position, position + run.num_tokens, dtype=np.int32)[np.newaxis]
    unused = np.zeros((UNUSED_SECTIONS, run.num_tokens), np.int32)
    return np.concatenate([run.grid + np.int32(position), unused])


def _decode(
    context: Pointer, embeddings: npt.NDArray[np.float32], positions: npt.NDArray[np.int32], seq_id: int
) -> int:
    num_tokens = len(embeddings)
    embeddings, positions = np.ascontiguousarray(embeddings), np.ascontiguousarray(positions)
    num_seq_ids, seq_ids = np.ones(num_tokens, np.int32), np.array([seq_id], np.int32)
    pointers = np.full(num_tokens, seq_ids.ctypes.data, np.uintp)
    logits = np.zeros(num_tokens, np.int8)
    batch = llama.llama_batch(
        n_tokens=num_tokens,
        embd=_pointer(embeddings, ctypes.c_float),
        pos=_pointer(positions, ctypes.c_int32),
        n_seq_id=_pointer(num_seq_ids, ctypes.c_int32),
        seq_id=ctypes.cast(pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        logits=_pointer(logits, ctypes.c_int8),
    )
    return int(llama.llama_decode(context, batch))


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
