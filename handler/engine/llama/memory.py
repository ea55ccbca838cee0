"""llama.cpp's memory of one context, as a `Memory` for the caches."""

import ctypes

import llama_cpp.llama_cpp as llama

from handler.engine.llama.host_buffers import HostState
from handler.engine.llama.model import Pointer
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
        # A state is that of all its tokens. Cells of a small window's cache that two slots share are never freed.
        self.shares_prefixes = not model.has_states and (swa_full or not model.window)

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        if self._has_states:
            return bool(llama.llama_memory_seq_pos_max(self._memory, seq_id) + 1 == num_tokens)
        # Even a full window cache loses what its window has passed: llama.cpp writes new tokens over it at will.
        first = llama.llama_memory_seq_pos_min(self._memory, seq_id) if self._window else 0
        return bool(first <= max(0, num_tokens - self._window + 1))

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        if self.is_unified:
            llama.llama_memory_seq_cp(self._memory, source, target, 0, num_tokens)
        else:  # a part of a slot with cells of its own cannot be copied: llama.cpp would abort
            llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            llama.llama_memory_seq_rm(self._memory, target, num_tokens, -1)

    def restore(self, seq_id: int, state: HostState) -> bool:
        data = state.data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(llama.llama_state_seq_set_data(self._context, data, state.data.size, seq_id) == state.data.size)

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        return bool(llama.llama_memory_seq_rm(self._memory, seq_id, num_tokens, -1))

    def clear(self, seq_id: int) -> None:
        llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1)
