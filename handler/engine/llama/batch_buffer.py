"""A batch as llama.cpp takes it."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.prefill_queue import Piece

PAD = 0  # any token: its result is discarded


def _own_place(_: int, num_tokens: int) -> int:
    return num_tokens


class BatchBuffer:
    """One `llama_batch` over NumPy arrays of shape (capacity,), overwritten in each step. Engine thread only.

    `token`, `pos`, `seq_id` and `n_seq_id` are int32, `logits` is int8: 1 where a row of logits is wanted.
    """

    def __init__(self, capacity: int, position: Callable[[int, int], int] = _own_place) -> None:
        """`capacity`: tokens of the largest batch, padding included. `position`: of what follows so many tokens of a
        slot, where those are not the same."""
        self._position = position
        # Of the rows of logits of the batch, those that tokens are sampled from, in order, and of each item with scored
        # positions the first one.
        self.rows: list[int] = []
        self.scored: list[tuple[ScheduledSequence, int]] = []
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq_id = np.zeros(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        self._n_seq_id = np.ones(capacity, np.int32)
        # llama_batch takes a pointer to each token's list of slots: they point into one array, for ever.
        self._seq_id_pointers = self._seq_id.ctypes.data + np.arange(capacity, dtype=np.uintp) * self._seq_id.itemsize
        self.struct = llama.llama_batch(
            token=_pointer(self._token, ctypes.c_int32),
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=ctypes.cast(self._seq_id_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    @property
    def num_tokens(self) -> int:
        """What it is filled with, padding included."""
        return int(self.struct.n_tokens)

    def fill(self, batch: Batch) -> None:
        """Rows of logits are wanted for the scored positions of each item, for its last token if it catches up, and for
        each token of its draft, in this order.

        Padding gets rows too, which are discarded: a graph is only reused with the same number of them.
        """
        self.scored.clear()
        if batch.is_decoding:
            self._fill_decoding(batch)
            return
        parts: list[tuple[int, int, list[int], ScheduledSequence | None]] = [
            (item.slot.seq_id, item.start, item.token_ids, item) for item in batch.items
        ]
        parts += [(slot.seq_id, slot.num_tokens, [PAD], None) for slot in batch.padding_slots]
        if batch.padding_slots:
            parts.sort(key=lambda part: part[0])
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        self.rows.clear()
        for seq_id, start, token_ids, item in parts:
            tokens += token_ids
            position = self._position(seq_id, start)
            positions += range(position, position + len(token_ids))
            slots += [seq_id] * len(token_ids)
            num_scored, num_sampled = (0, 1) if item is None else (len(item.scored), _num_sampled(item))
            if item is not None:
                first = len(rows) + num_scored
                self.rows += range(first, first + num_sampled)
                if num_scored:
                    self.scored.append((item, len(rows)))
            rows += range(len(tokens) - num_scored - num_sampled, len(tokens))
        end = self.struct.n_tokens = len(tokens)
        self._token[:end], self._pos[:end], self._seq_id[:end] = tokens, positions, slots
        self._logits[:end] = 0
        self._logits[rows] = 1

    def _fill_decoding(self, batch: Batch) -> None:
        """The same where every item has one token and one row, which is most steps of many sequences."""
        each = [(item.slot.seq_id, item.start, item.sequence.token_ids[-1]) for item in batch.items]
        padding = {slot.seq_id for slot in batch.padding_slots}
        if padding:
            each += [(slot.seq_id, slot.num_tokens, PAD) for slot in batch.padding_slots]
            each.sort()
        seq_ids, starts, token_ids = zip(*each, strict=True)
        end = self.struct.n_tokens = len(each)
        self._seq_id[:end], self._token[:end] = seq_ids, token_ids
        self._pos[:end] = list(map(self._position, seq_ids, starts))
        self._logits[:end] = 1
        self.rows[:] = [row for row, seq_id in enumerate(seq_ids) if seq_id not in padding]

    def fill_pieces(self, pieces: list[Piece]) -> None:
        """Pieces of prompts, without rows of logits."""
        end = 0
        for _, stream, start, token_ids in pieces:
            begin, end = end, end + len(token_ids)
            self._token[begin:end], self._seq_id[begin:end] = token_ids, stream
            self._pos[begin:end] = np.arange(start, start + len(token_ids))
        self._logits[:end] = 0
        self.struct.n_tokens = end

    def fill_inputs(self, inputs: Sequence[list[int]]) -> None:
        """Whole inputs, one sequence each, of which every token is an output, as pooling wants it."""
        end = 0
        for seq_id, token_ids in enumerate(inputs):
            begin, end = end, end + len(token_ids)
            self._token[begin:end], self._seq_id[begin:end] = token_ids, seq_id
            self._pos[begin:end] = np.arange(len(token_ids))
        self._logits[:end] = 1
        self.struct.n_tokens = end

    def fill_token(self, token_id: int) -> None:
        """A single token at the beginning of slot 0."""
        self._token[0], self._pos[0], self._seq_id[0], self._logits[0] = token_id, 0, 0, 1
        self.struct.n_tokens = 1


def _num_sampled(item: ScheduledSequence) -> int:
    return 1 + len(item.draft_token_ids) if item.catches_up else 0


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
