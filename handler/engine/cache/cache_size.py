"""How large the KV cache becomes where N_CTX is not set, and whether it is split: by the memory that is free beside the
model.

A split cache makes steps shorter (split_cache.py), but every slot needs room for the longest sequence. So it is chosen
where that much memory is free; else all slots share cells.

Arithmetic alone: knows nothing of where the counts of bytes come from, and of whether llama.cpp agrees.
"""

from typing import Literal, NamedTuple

from handler.errors import ConfigError

BYTES = {"f32": 4, "f16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}

DEFAULT_MAX_CTX = 32768  # cells where free memory is unknown
CELLS_PER_SLOT = 4096  # there are twice as many slots as sequences may run
MIN_CELLS = 512
BLOCK = 32  # quantised numbers that share a scale
STEP = 256  # cells: llama.cpp rounds up to it
MASK_BYTES = 6  # for each cell and token of a ubatch: the attention mask, in two formats
RESERVE = 1 << 30  # bytes of each GPU for intermediate results
GIB = 1 << 30

Layout = Literal["auto", "on", "off"]  # "on": slots share cells


class CacheShape(NamedTuple):
    """What one token takes in the cache."""

    num_layers: int
    key_width: int  # numbers a layer
    value_width: int
    head_size: int  # numbers that are quantised together must divide it

    def cell_bytes(self, type_k: str, type_v: str) -> float:
        return self.num_layers * (self.key_width * BYTES[type_k] + self.value_width * BYTES[type_v])


class CacheRequest(NamedTuple):
    """The settings of the cache, and what bounds the choice. 0 and "auto": choose."""

    n_ctx: int
    type_k: str
    type_v: str
    num_slots: int
    max_model_len: int
    n_ubatch: int
    can_quantise: bool  # llama.cpp needs flash attention for it
    max_num_seqs: int
    num_needed: int  # slots that a split cache must have
    num_prefill_lengths: int  # longest sequences that a context for prompts has room for beside them
    kv_unified: Layout
    can_split: bool  # whether the model's memory can be copied slot by slot


class CacheSize(NamedTuple):
    """A cache of `n_ctx` cells in all."""

    n_ctx: int
    type_k: str
    type_v: str
    why: str  # the reason, for the log and for errors
    num_slots: int
    is_unified: bool = True

    def half(self, num_slots: int) -> "CacheSize":
        """What to try where llama.cpp has no room for this one: a unified cache for so many slots."""
        n_ctx = max(MIN_CELLS, self.n_ctx // 2 // STEP * STEP)
        return CacheSize(n_ctx, self.type_k, self.type_v, f"half of: {self.why}", num_slots)


def without_gpu(request: CacheRequest, n_ctx_train: int) -> CacheSize:
    """Free main memory is not considered: it is shared with all the machine does. Raises ConfigError."""
    types = _types(request, "f16")
    if request.kv_unified == "off":
        return _split_as_set(request, _longest(request, n_ctx_train), types)
    n_ctx = request.n_ctx or min(n_ctx_train, max(DEFAULT_MAX_CTX, request.max_model_len))
    return CacheSize(n_ctx, *types, "as set" if request.n_ctx else "the model's, up to a limit", request.num_slots)


def on_gpus(request: CacheRequest, shape: CacheShape, n_ctx_train: int, free: list[int]) -> CacheSize:
    """`free`: bytes of each GPU, with the model in it. Quantised only where N_CTX, or one long sequence, does not fit
    otherwise. Raises ConfigError."""
    longest = _longest(request, n_ctx_train)
    types = _types(request, "f16")
    if request.kv_unified == "off":
        return _split_as_set(request, longest, types)
    longest_split = request.max_model_len or n_ctx_train
    num_cells = _num_split_cells(request, shape, types, longest_split, free)
    if _fits_split(request, longest_split, num_cells):
        return _split(request, longest_split, num_cells, types, free)
    if (
        request.can_quantise
        and shape.head_size % BLOCK == 0
        and max_cells(request, shape, types, free) < (request.n_ctx or longest)
    ):
        types = _types(request, "q8_0")
    fitting = max_cells(request, shape, types, free)
    hint = _hint(request, num_cells)
    if request.n_ctx:
        return CacheSize(request.n_ctx, *types, f"as set; {fitting} would fit{hint}", request.num_slots)
    n_ctx = max(MIN_CELLS, min(fitting, max(longest, request.num_slots * CELLS_PER_SLOT)))
    return CacheSize(n_ctx, *types, explain(request, shape, types, free) + hint, request.num_slots)


def _num_split_cells(
    request: CacheRequest, shape: CacheShape, types: tuple[str, str], longest: int, free: list[int]
) -> int:
    """Cells that fit if each slot has its own, which makes masks small, beside those of a context for prompts, which
    are no part of N_CTX; 0 where the cache may not be split."""
    if request.kv_unified != "auto" or not request.can_split or request.max_num_seqs < 2:
        return 0
    fitting = int(_usable(free) / shape.cell_bytes(*types)) - request.num_prefill_lengths * _padded(longest)
    return max(0, min(fitting, request.n_ctx or fitting))


def _fits_split(request: CacheRequest, longest: int, num_cells: int) -> bool:
    return num_cells // _padded(longest) >= request.num_needed


def _split(request: CacheRequest, longest: int, num_cells: int, types: tuple[str, str], free: list[int]) -> CacheSize:
    length = _padded(longest)
    num_slots = min(request.num_slots, num_cells // length)
    why = f"{num_cells} fit, so that each of {num_slots} slots has {length}; {_free(free)}"
    return CacheSize(num_slots * length, *types, why, num_slots, is_unified=False)


def _hint(request: CacheRequest, num_cells: int) -> str:
    """MAX_MODEL_LEN is not lowered unasked, but the log says at which value the cache would be split."""
    length = num_cells // request.num_needed // STEP * STEP
    if length < STEP:
        return ""
    return f". With MAX_MODEL_LEN={length} or less each sequence would have cells of its own: faster for many at once"


def _split_as_set(request: CacheRequest, longest: int, types: tuple[str, str]) -> CacheSize:
    if not request.can_split:
        raise ConfigError("KV_UNIFIED has value 'off': this model's memory cannot be copied slot by slot.")
    length = request.n_ctx // request.num_slots // STEP * STEP if request.n_ctx else _padded(longest)
    if length < max(STEP, request.max_model_len):
        raise ConfigError(
            f"KV_UNIFIED has value 'off': N_CTX={request.n_ctx} gives each of {request.num_slots} slots {length} "
            f"tokens, and {max(STEP, request.max_model_len)} are needed."
        )
    return CacheSize(request.num_slots * length, *types, "as set", request.num_slots, is_unified=False)


def _longest(request: CacheRequest, n_ctx_train: int) -> int:
    return request.max_model_len or min(n_ctx_train, DEFAULT_MAX_CTX)


def _padded(num_tokens: int) -> int:
    return -(-num_tokens // STEP) * STEP


def _usable(free: list[int]) -> int:
    return sum(max(0, num_bytes - RESERVE) for num_bytes in free)


def max_cells(request: CacheRequest, shape: CacheShape, types: tuple[str, str], free: list[int]) -> int:
    return int(_usable(free) / (shape.cell_bytes(*types) + MASK_BYTES * request.n_ubatch)) // STEP * STEP


def explain(request: CacheRequest, shape: CacheShape, types: tuple[str, str], free: list[int]) -> str:
    """The arithmetic, for the log and for errors."""
    return (
        f"{_free(free)}; {shape.cell_bytes(*types) / 1024:.1f} KiB a token as {'/'.join(types)} "
        f"and {MASK_BYTES * request.n_ubatch / 1024:.1f} KiB to compute with: "
        f"{max_cells(request, shape, types, free)} fit"
    )


def _free(free: list[int]) -> str:
    return f"{sum(free) / GIB:.1f} GiB free on {len(free)} GPU(s), less {RESERVE / GIB:.0f} GiB each"


def _types(request: CacheRequest, choice: str) -> tuple[str, str]:
    """Of keys and values: `choice` where none is set."""
    type_k, type_v = (choice if name == "auto" else name for name in (request.type_k, request.type_v))
    return type_k, type_v
