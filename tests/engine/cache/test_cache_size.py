"""How large the cache becomes where N_CTX is not set."""

from typing import Any

import pytest

from handler.engine.cache.cache_size import GIB, CacheRequest, CacheShape, on_gpus, without_gpu
from handler.errors import ConfigError

SEVEN_B = CacheShape(28, 512, 512, 128)  # 56 KiB a token as f16
REQUEST = CacheRequest(
    0,
    "auto",
    "auto",
    num_slots=32,
    max_model_len=0,
    n_ubatch=512,
    can_quantise=True,
    max_num_seqs=16,
    num_needed=18,
    num_prefill_lengths=0,
    kv_unified="on",
    can_split=True,
)


def test_bytes_of_a_token() -> None:
    """Quantised numbers come in blocks of 32 with a scale of two bytes."""
    assert SEVEN_B.cell_bytes("f16", "f16") == 56 * 1024
    assert SEVEN_B.cell_bytes("q8_0", "q4_0") == 28 * 512 * (34 + 18) / 32


def test_there_is_room_for_all() -> None:
    """A large GPU: enough for every slot, and no more."""
    assert on_gpus(REQUEST, SEVEN_B, 32768, [70 * GIB])[:3] == (32 * 4096, "f16", "f16")


def test_what_fits() -> None:
    """A smaller one: what is left beside the model and a reserve, and the log says how that was found."""
    size = on_gpus(REQUEST, SEVEN_B, 32768, [4 * GIB])
    assert size.n_ctx == 3 * GIB // (59 * 1024) // 256 * 256
    assert "4.0 GiB free on 1 GPU(s)" in size.why
    assert "56.0 KiB a token" in size.why


def test_several_gpus_add_up() -> None:
    """Each keeps its own reserve."""
    one, two = (on_gpus(REQUEST, SEVEN_B, 32768, free) for free in ([4 * GIB], [5 * GIB // 2] * 2))
    assert one.n_ctx == two.n_ctx


def test_quantised_where_one_sequence_would_not_fit() -> None:
    """Unless llama.cpp cannot, or it was said otherwise."""
    tight = [2 * GIB]
    assert on_gpus(REQUEST, SEVEN_B, 32768, tight)[1:3] == ("q8_0", "q8_0")
    assert on_gpus(REQUEST, SEVEN_B, 8192, tight)[1:3] == ("f16", "f16")
    assert on_gpus(REQUEST._replace(can_quantise=False), SEVEN_B, 32768, tight)[1:3] == ("f16", "f16")
    assert on_gpus(REQUEST, SEVEN_B._replace(head_size=80), 32768, tight)[1:3] == ("f16", "f16")
    assert on_gpus(REQUEST._replace(type_v="q4_0"), SEVEN_B, 8192, tight)[1:3] == ("f16", "q4_0")


AUTO = REQUEST._replace(kv_unified="auto")


def test_cells_for_each_slot() -> None:
    """Where every slot has room for the longest sequence; the log says so."""
    size = on_gpus(AUTO._replace(max_model_len=8000), SEVEN_B, 32768, [70 * GIB])
    assert (size.n_ctx, size.num_slots, size.is_unified) == (32 * 8192, 32, False)
    assert "each of 32 slots has 8192" in size.why


def test_fewer_slots() -> None:
    """Finished conversations get what is left, an eighth of the running ones at least."""
    size = on_gpus(AUTO, SEVEN_B, 32768, [40 * GIB])
    assert (size.n_ctx, size.num_slots, size.is_unified) == (22 * 32768, 22, False)
    assert on_gpus(AUTO, SEVEN_B, 32768, [30 * GIB]).is_unified
    assert on_gpus(AUTO, SEVEN_B, 32768, [30 * GIB]).num_slots == 32


@pytest.mark.parametrize("change", [{"kv_unified": "on"}, {"can_split": False}, {"max_num_seqs": 1}])
def test_no_split(change: dict[str, Any]) -> None:
    """As set; where a model's memory cannot be copied; where they would not make anything faster."""
    assert on_gpus(AUTO._replace(**change), SEVEN_B, 8192, [70 * GIB]).is_unified


def test_sequences_are_not_made_shorter_for_a_split() -> None:
    """Unless that is set; the log says how long they may be for it."""
    size = on_gpus(AUTO, SEVEN_B, 131072, [70 * GIB])
    assert size.is_unified
    assert "With MAX_MODEL_LEN=71680 or less" in size.why
    assert not on_gpus(AUTO._replace(max_model_len=71680), SEVEN_B, 131072, [70 * GIB]).is_unified
    assert on_gpus(AUTO._replace(max_model_len=71681), SEVEN_B, 131072, [70 * GIB]).is_unified


def test_a_split_of_what_was_set() -> None:
    """N_CTX is all slots' together."""
    size = on_gpus(AUTO._replace(n_ctx=20 * 4096, max_model_len=4096), SEVEN_B, 32768, [70 * GIB])
    assert (size.n_ctx, size.num_slots, size.is_unified) == (20 * 4096, 20, False)
    assert on_gpus(AUTO._replace(n_ctx=17 * 4096, max_model_len=4096), SEVEN_B, 32768, [70 * GIB]).is_unified


def test_a_split_was_asked_for() -> None:
    """Also without a GPU, if they can be and are long enough."""
    request = REQUEST._replace(kv_unified="off", n_ctx=32 * 512)
    size = without_gpu(request, 32768)
    assert (size.n_ctx, size.num_slots, size.is_unified) == (32 * 512, 32, False)
    with pytest.raises(ConfigError, match="gives each of 32 slots 512 tokens, and 600 are needed"):
        without_gpu(request._replace(max_model_len=600), 32768)
    with pytest.raises(ConfigError, match="cannot be copied"):
        without_gpu(request._replace(can_split=False), 32768)


def test_what_was_set_is_taken() -> None:
    """With a word on what would have fitted."""
    size = on_gpus(REQUEST._replace(n_ctx=100_000), SEVEN_B, 32768, [4 * GIB])
    assert size.n_ctx == 100_000
    assert "would fit" in size.why


def test_never_nothing() -> None:
    """Where nothing seems to fit, llama.cpp is asked all the same."""
    assert on_gpus(REQUEST, SEVEN_B, 32768, [0]).n_ctx == 512


@pytest.mark.parametrize(
    ("n_ctx", "max_model_len", "n_ctx_train", "cells"),
    [(0, 0, 4096, 4096), (0, 0, 131072, 32768), (0, 65536, 131072, 65536), (1000, 0, 4096, 1000)],
)
def test_without_a_gpu(n_ctx: int, max_model_len: int, n_ctx_train: int, cells: int) -> None:
    """The model's context, up to a limit that can be raised."""
    request = REQUEST._replace(n_ctx=n_ctx, max_model_len=max_model_len)
    assert without_gpu(request, n_ctx_train)[:3] == (cells, "f16", "f16")
