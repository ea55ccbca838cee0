"""A batch as llama.cpp wants it."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.batch import Batch


class BatchBuffer:
    """One `llama_batch` over NumPy arrays, filled anew for each step with whole-array assignments."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq_id = np.zeros(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        self._n_seq_id = np.ones(capacity, np.int32)
        # llama_batch wants a pointer to each token's list of slots: they point into one array, for ever.
        self._seq_id_pointers = self._seq_id.ctypes.data + np.arange(capacity, dtype=np.uintp) * self._seq_id.itemsize
        self.struct = llama.llama_batch(
            token=_pointer(self._token, ctypes.c_int32),
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=ctypes.cast(self._seq_id_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, batch: Batch) -> list[int]:
        """Returns the rows whose logits are wanted, in batch order."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        for item in batch.items:
            tokens += item.token_ids
            positions += range(item.start, item.start + item.num_rows)
            slots += [item.slot.seq_id] * item.num_rows
            if item.catches_up:
                rows += range(len(tokens) - len(item.draft_token_ids) - 1, len(tokens))
        end = self.struct.n_tokens = len(tokens)
        self._token[:end], self._pos[:end], self._seq_id[:end] = tokens, positions, slots
        self._logits[:end] = 0
        self._logits[rows] = 1
        return rows

    def fill_token(self, token_id: int) -> None:
        """A single token at the beginning of slot 0."""
        self._token[0], self._pos[0], self._seq_id[0], self._logits[0] = token_id, 0, 0, 1
        self.struct.n_tokens = 1


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
