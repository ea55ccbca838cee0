"""Which LoRA adapter a context applies."""

import ctypes
from collections.abc import Mapping
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.adapter_turns import Adapter
from handler.engine.llama.model import Pointer

SCALE = 1.0  # of what the file says


class AppliedAdapter:
    """The adapter of one context. Used by the thread that computes in the context."""

    def __init__(self, context: Pointer, adapters: Mapping[str, Pointer]) -> None:
        """`adapters`: those of the context's model, by name."""
        self._context = context
        self._adapters = adapters
        self._name: Adapter = None

    def use(self, name: Adapter) -> None:
        """Apply this one from the next batch on; None: none. llama.cpp reserves its graphs anew after a change."""
        if name == self._name:
            return
        if name is None:
            llama.llama_set_adapters_lora(self._context, None, 0, None)
        else:
            pointers: Any = (llama.llama_adapter_lora_p_ctypes * 1)(self._adapters[name])
            llama.llama_set_adapters_lora(self._context, pointers, 1, (ctypes.c_float * 1)(SCALE))
        self._name = name
