"""How large a KV cache is made where nobody says so, and how it is divided: by the memory that the model leaves free.

A stream for each slot makes steps shorter (split_cache.py), but every slot needs room for the longest sequence. So it
is chosen where that much memory is free; else all slots share cells.

Arithmetic alone: who counted the bytes, and whether llama.cpp agrees, is not known here.
"""

from typing import Literal, NamedTuple

from handler.errors import ConfigError

BYTES = {"f32": 4, "f16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}

DEFAULT_MAX_CTX = 32768  # cells where nothing is known of memory
CELLS_PER_SLOT = 4096  # of which there are twice as many as sequences run
MIN_CELLS = 512
BLOCK = 32  # numbers that share a scale
STEP = 256  # cells: llama.cpp pads to it
MASK_BYTES = 6  # for each cell and token of a ubatch: the attention's mask, in two forms
RESERVE = 1 << 30  # bytes of each GPU for what is computed in between
GIB = 1 << 30

Layout = Literal["auto", "on", "off"]  # "on": slots share cells


class CacheShape(NamedTuple):
    """What one token puts into the cache."""

    num_layers: int
    key_width: int  # numbers of a layer
    value_width: int
    head_size: int  # numbers that are quantised together must divide it

    def cell_bytes(self, type_k: str, type_v: str) -> float:
        return self.num_layers * (self.key_width * BYTES[type_k] + self.value_width * BYTES[type_v])


class CacheRequest(NamedTuple):
    """What was set. 0 and "auto": choose."""

    n_ctx: int
    type_k: str
    type_v: str
    num_slots: int
    max_model_len: int
    n_ubatch: int
    can_quantise: bool  # llama.cpp needs flash attention for it
    max_num_seqs: int  # slots that there must be at least
    kv_unified: Layout
    can_stream: bool  # whether the model's memory can be copied stream by stream


class CacheSize(NamedTuple):
    n_ctx: int
    type_k: str
    type_v: str
    why: str
    num_slots: int
    is_unified: bool = True

    def half(self, num_slots: int) -> "CacheSize":
        """For where llama.cpp has no room for this one after all: shared by so many slots."""
        n_ctx = max(MIN_CELLS, self.n_ctx // 2 // STEP * STEP)
        return CacheSize(n_ctx, self.type_k, self.type_v, f"half of: {self.why}", num_slots)


def without_gpu(wish: CacheRequest, n_ctx_train: int) -> CacheSize:
    """Main memory is not asked: it is shared with all the machine does. Raises ConfigError."""
    types = _types(wish, "f16")
    if wish.kv_unified == "off":
        return _streams_as_set(wish, _longest(wish, n_ctx_train), types)
    n_ctx = wish.n_ctx or min(n_ctx_train, max(DEFAULT_MAX_CTX, wish.max_model_len))
    return CacheSize(n_ctx, *types, "as set" if wish.n_ctx else "the model's, up to a limit", wish.num_slots)


def on_gpus(wish: CacheRequest, shape: CacheShape, n_ctx_train: int, free: list[int]) -> CacheSize:
    """`free`: bytes of each GPU, with the model in it. Quantised only where what was set, or one long sequence, does
    not fit otherwise. Raises ConfigError."""
    longest = _longest(wish, n_ctx_train)
    types = _types(wish, "f16")
    if wish.kv_unified == "off":
        return _streams_as_set(wish, longest, types)
    num_cells = _num_stream_cells(wish, shape, types, free)
    if _fit_streams(wish, wish.max_model_len or n_ctx_train, num_cells):
        return _streams(wish, wish.max_model_len or n_ctx_train, num_cells, types, free)
    if (
        wish.can_quantise
        and shape.head_size % BLOCK == 0
        and max_cells(wish, shape, types, free) < (wish.n_ctx or longest)
    ):
        types = _types(wish, "q8_0")
    fitting = max_cells(wish, shape, types, free)
    hint = _hint(wish, num_cells)
    if wish.n_ctx:
        return CacheSize(wish.n_ctx, *types, f"as set; {fitting} would fit{hint}", wish.num_slots)
    n_ctx = max(MIN_CELLS, min(fitting, max(longest, wish.num_slots * CELLS_PER_SLOT)))
    return CacheSize(n_ctx, *types, explain(wish, shape, types, free) + hint, wish.num_slots)


def _num_stream_cells(wish: CacheRequest, shape: CacheShape, types: tuple[str, str], free: list[int]) -> int:
    """For streams, whose masks are small; 0 where there may be none."""
    if wish.kv_unified != "auto" or not wish.can_stream or wish.max_num_seqs < 2:
        return 0
    fitting = int(_usable(free) / shape.cell_bytes(*types))
    return min(fitting, wish.n_ctx or fitting)


def _num_needed(wish: CacheRequest) -> int:
    """Slots: those that run, and an eighth more for finished conversations."""
    return wish.max_num_seqs + -(-wish.max_num_seqs // 8)


def _fit_streams(wish: CacheRequest, longest: int, num_cells: int) -> bool:
    return num_cells // _padded(longest) >= _num_needed(wish)


def _streams(wish: CacheRequest, longest: int, num_cells: int, types: tuple[str, str], free: list[int]) -> CacheSize:
    length = _padded(longest)
    num_slots = min(wish.num_slots, num_cells // length)
    why = f"{num_cells} fit, so that each of {num_slots} slots has {length}; {_free(free)}"
    return CacheSize(num_slots * length, *types, why, num_slots, is_unified=False)


def _hint(wish: CacheRequest, num_cells: int) -> str:
    """Sequences are not made shorter unasked, but who does not need long ones should know what that costs."""
    length = num_cells // _num_needed(wish) // STEP * STEP
    if length < STEP:
        return ""
    return f". With MAX_MODEL_LEN={length} or less each sequence would have cells of its own: faster for many at once"


def _streams_as_set(wish: CacheRequest, longest: int, types: tuple[str, str]) -> CacheSize:
    if not wish.can_stream:
        raise ConfigError("KV_UNIFIED has value 'off': this model's memory cannot be copied slot by slot.")
    length = wish.n_ctx // wish.num_slots // STEP * STEP if wish.n_ctx else _padded(longest)
    if length < max(STEP, wish.max_model_len):
        raise ConfigError(
            f"KV_UNIFIED has value 'off': N_CTX={wish.n_ctx} gives each of {wish.num_slots} slots {length} tokens, "
            f"and {max(STEP, wish.max_model_len)} are needed."
        )
    return CacheSize(wish.num_slots * length, *types, "as set", wish.num_slots, is_unified=False)


def _longest(wish: CacheRequest, n_ctx_train: int) -> int:
    return wish.max_model_len or min(n_ctx_train, DEFAULT_MAX_CTX)


def _padded(num_tokens: int) -> int:
    return -(-num_tokens // STEP) * STEP


def _usable(free: list[int]) -> int:
    return sum(max(0, num_bytes - RESERVE) for num_bytes in free)


def max_cells(wish: CacheRequest, shape: CacheShape, types: tuple[str, str], free: list[int]) -> int:
    return int(_usable(free) / (shape.cell_bytes(*types) + MASK_BYTES * wish.n_ubatch)) // STEP * STEP


def explain(wish: CacheRequest, shape: CacheShape, types: tuple[str, str], free: list[int]) -> str:
    """The arithmetic, for the log and for errors."""
    return (
        f"{_free(free)}; {shape.cell_bytes(*types) / 1024:.1f} KiB a token as {'/'.join(types)} "
        f"and {MASK_BYTES * wish.n_ubatch / 1024:.1f} KiB to compute with: {max_cells(wish, shape, types, free)} fit"
    )


def _free(free: list[int]) -> str:
    return f"{sum(free) / GIB:.1f} GiB free on {len(free)} GPU(s), less {RESERVE / GIB:.0f} GiB each"


def _types(wish: CacheRequest, choice: str) -> tuple[str, str]:
    return choice if wish.type_k == "auto" else wish.type_k, choice if wish.type_v == "auto" else wish.type_v
