"""llama.cpp's memory of one context, as a `Memory` for the caches."""

import ctypes
from collections.abc import Iterable

import llama_cpp.llama_cpp as llama

from handler.engine.llama.host_buffers import HostState
from handler.engine.llama.model import Pointer
from handler.engine.media_run import MediaRun
from handler.engine.model_facts import ModelFacts


class ModelMemory:
    """Belongs to a context and lives no longer. Engine thread only.

    Knows what llama.cpp's memory cannot do, and what it does wrong without saying so; decides nothing.
    """

    def __init__(self, context: Pointer, model: ModelFacts, *, swa_full: bool, is_unified: bool) -> None:
        self.is_unified = is_unified
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._has_states = model.has_states
        self._window = model.window
        # By seq_id, of media runs that have fewer positions than tokens: where they end, and how many fewer.
        self._saved: dict[int, list[tuple[int, int]]] = {}
        # A state is that of all its tokens. Cells of a small window's cache that two slots share are never freed.
        self.shares_prefixes = not model.has_states and (swa_full or not model.window)

    def position(self, seq_id: int, num_tokens: int) -> int:
        """llama.cpp's position of what follows the first tokens of a slot: a model that places images in two dimensions
        gives them fewer positions than they have tokens."""
        runs = self._saved.get(seq_id)
        return num_tokens - sum(saved for end, saved in runs if end <= num_tokens) if runs else num_tokens

    def note_run(self, seq_id: int, end: int, run: MediaRun) -> None:
        """A media run was computed, up to this number of tokens."""
        if run.num_saved:
            self._saved.setdefault(seq_id, []).append((end, run.num_saved))

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        position = self.position(seq_id, num_tokens)
        if self._has_states:
            return bool(llama.llama_memory_seq_pos_max(self._memory, seq_id) + 1 == position)
        # Even a full window cache loses what its window has passed: llama.cpp writes new tokens over it at will.
        first = llama.llama_memory_seq_pos_min(self._memory, seq_id) if self._window else 0
        return bool(first <= max(0, position - self._window + 1))

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        position = self.position(source, num_tokens)
        if self.is_unified:
            llama.llama_memory_seq_cp(self._memory, source, target, 0, position)
        else:  # a part of a slot with cells of its own cannot be copied: llama.cpp would abort
            llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            llama.llama_memory_seq_rm(self._memory, target, position, -1)
        self._keep_saved(target, num_tokens, self._saved.get(source, ()))

    def restore(self, seq_id: int, state: HostState) -> bool:
        self._saved.pop(seq_id, None)
        data = state.data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(llama.llama_state_seq_set_data(self._context, data, state.data.size, seq_id) == state.data.size)

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        if not llama.llama_memory_seq_rm(self._memory, seq_id, self.position(seq_id, num_tokens), -1):
            return False
        self._keep_saved(seq_id, num_tokens, self._saved.get(seq_id, ()))
        return True

    def clear(self, seq_id: int) -> None:
        self._saved.pop(seq_id, None)
        llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def _keep_saved(self, seq_id: int, num_tokens: int, saved: Iterable[tuple[int, int]]) -> None:
        """Those within the first tokens."""
        kept = [(end, number) for end, number in saved if end <= num_tokens]
        if kept:
            self._saved[seq_id] = kept
        else:
            self._saved.pop(seq_id, None)
