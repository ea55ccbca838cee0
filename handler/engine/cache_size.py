"""How large a KV cache is made where nobody says so: by the memory that the model leaves free on its GPUs.

Arithmetic alone: who counted the bytes, and whether llama.cpp agrees, is not known here.
"""

from typing import NamedTuple

BYTES = {"f32": 4, "f16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}

DEFAULT_MAX_CTX = 32768  # cells where nothing is known of memory
CELLS_PER_SLOT = 4096  # of which there are twice as many as sequences run
MIN_CELLS = 512
BLOCK = 32  # numbers that share a scale
STEP = 256  # cells: llama.cpp pads to it
MASK_BYTES = 6  # for each cell and token of a ubatch: the attention's mask, in two forms
RESERVE = 1 << 30  # bytes of each GPU for what is computed in between
GIB = 1 << 30


class CacheShape(NamedTuple):
    """What one token puts into the cache."""

    num_layers: int
    key_width: int  # numbers of a layer
    value_width: int
    head_size: int  # numbers that are quantised together must divide it

    def cell_bytes(self, type_k: str, type_v: str) -> float:
        return self.num_layers * (self.key_width * BYTES[type_k] + self.value_width * BYTES[type_v])


class CacheWish(NamedTuple):
    """What was set. 0 and "auto": choose."""

    n_ctx: int
    type_k: str
    type_v: str
    num_slots: int
    max_model_len: int
    n_ubatch: int
    can_quantise: bool  # llama.cpp needs flash attention for it


class CacheSize(NamedTuple):
    n_ctx: int
    type_k: str
    type_v: str
    why: str

    def half(self) -> "CacheSize":
        """For where llama.cpp has no room for this one after all."""
        return self._replace(n_ctx=max(MIN_CELLS, self.n_ctx // 2 // STEP * STEP), why=f"half of: {self.why}")


def without_gpu(wish: CacheWish, n_ctx_train: int) -> CacheSize:
    """Main memory is not asked: it is shared with all the machine does."""
    n_ctx = wish.n_ctx or min(n_ctx_train, max(DEFAULT_MAX_CTX, wish.max_model_len))
    return CacheSize(n_ctx, *_types(wish, "f16"), "as set" if wish.n_ctx else "the model's, up to a limit")


def on_gpus(wish: CacheWish, shape: CacheShape, n_ctx_train: int, free: list[int]) -> CacheSize:
    """`free`: bytes of each GPU, with the model in it. Quantised only where what was set, or one long sequence, does
    not fit otherwise."""
    longest = wish.max_model_len or min(n_ctx_train, DEFAULT_MAX_CTX)
    types = _types(wish, "f16")
    if (
        wish.can_quantise
        and shape.head_size % BLOCK == 0
        and max_cells(wish, shape, types, free) < (wish.n_ctx or longest)
    ):
        types = _types(wish, "q8_0")
    fitting = max_cells(wish, shape, types, free)
    if wish.n_ctx:
        return CacheSize(wish.n_ctx, *types, f"as set; {fitting} would fit")
    n_ctx = max(MIN_CELLS, min(fitting, max(longest, wish.num_slots * CELLS_PER_SLOT)))
    return CacheSize(n_ctx, *types, explain(wish, shape, types, free))


def max_cells(wish: CacheWish, shape: CacheShape, types: tuple[str, str], free: list[int]) -> int:
    usable = sum(max(0, num_bytes - RESERVE) for num_bytes in free)
    return int(usable / (shape.cell_bytes(*types) + MASK_BYTES * wish.n_ubatch)) // STEP * STEP


def explain(wish: CacheWish, shape: CacheShape, types: tuple[str, str], free: list[int]) -> str:
    """The arithmetic, for the log and for errors."""
    return (
        f"{sum(free) / GIB:.1f} GiB free on {len(free)} GPU(s), less {RESERVE / GIB:.0f} GiB each; "
        f"{shape.cell_bytes(*types) / 1024:.1f} KiB a token as {'/'.join(types)} "
        f"and {MASK_BYTES * wish.n_ubatch / 1024:.1f} KiB to compute with: {max_cells(wish, shape, types, free)} fit"
    )


def _types(wish: CacheWish, choice: str) -> tuple[str, str]:
    return choice if wish.type_k == "auto" else wish.type_k, choice if wish.type_v == "auto" else wish.type_v
