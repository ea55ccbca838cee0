"""What an engine is made of, by the settings, the machine and the model. No model is loaded."""

from typing import Any

import pytest

from handler.engine.cache.cache_size import GIB, CacheShape
from handler.engine.model_facts import ModelFacts, Offload, offload
from handler.engine.plan import (
    EXACT_GRID_ON_CPU,
    EXACT_GRID_ON_GPU,
    MAX_BATCH_ON_CPU,
    MAX_BATCH_ON_GPU,
    MAX_BURST_ON_CPU,
    MAX_BURST_ON_GPU,
    MAX_DRAFTING_ON_CPU,
    MAX_DRAFTING_ON_GPU,
    MAX_IDLE_ON_CPU,
    MAX_IDLE_ON_GPU,
    EnginePlan,
    Machine,
    has_room_to_expand,
    plan,
)
from handler.engine.speculative.speculation import DraftLimits
from handler.errors import ConfigError
from handler.settings import Settings

FULL = ModelFacts(n_ctx_train=32768, window=0, has_states=False, cache_shape=CacheShape(28, 512, 512, 128))
WINDOW = FULL._replace(window=512)
RECURRENT = FULL._replace(has_states=True)
CPU = Machine(num_cores=2, has_gpu=False)
GPU = Machine(num_cores=64, has_gpu=True, free_gpu_bytes=(70 * GIB,))
SMALL_GPU = GPU._replace(free_gpu_bytes=(8 * GIB,))


def planned(machine: Machine = CPU, model: ModelFacts = FULL, **environ: object) -> EnginePlan:
    return plan(Settings.from_env({name: str(value) for name, value in environ.items()}), machine, model)


def test_no_gpu_layers_means_no_gpu() -> None:
    """With N_GPU_LAYERS=0 the GPU of a host is left alone: limits, drafts and the cache are those of a CPU."""
    engine = planned(GPU, N_GPU_LAYERS=0, SPECULATE="lookup")
    assert not engine.on_gpu
    assert engine.limits.max_batch_tokens == MAX_BATCH_ON_CPU
    assert (engine.limits.max_burst_tokens, engine.limits.max_idle) == (MAX_BURST_ON_CPU, MAX_IDLE_ON_CPU)
    assert engine.draft_limits is not None
    assert engine.draft_limits.max_num_seqs == MAX_DRAFTING_ON_CPU
    assert engine.cache.why == "the model's, up to a limit"


def test_a_sliding_window_is_computed_in_one_piece() -> None:
    """N_UBATCH is raised to N_BATCH for llama.cpp, and all that reasons with it reasons with that: how much may be
    drafted, how much memory a step takes, and whether a launched batch returns early."""
    engine = planned(GPU, WINDOW, N_BATCH=1024, N_UBATCH=128, SPECULATE="lookup")
    assert engine.context.n_ubatch == engine.context.n_batch == 1024
    assert engine.draft_limits is not None
    assert engine.draft_limits.max_batch_tokens == 1024
    assert planned(GPU, FULL, N_BATCH=1024, N_UBATCH=128).context.n_ubatch == 128
    narrow, wide = (planned(GPU._replace(free_gpu_bytes=(4 * GIB,)), m, N_UBATCH=128) for m in (FULL, WINDOW))
    assert wide.cache.n_ctx < narrow.cache.n_ctx


def test_a_ubatch_is_never_larger_than_a_batch() -> None:
    """Whatever is set."""
    assert planned(N_BATCH=64, N_UBATCH=512).context.n_ubatch == 64


def test_limits_of_a_gpu() -> None:
    """Where layers are on it, be it some of them."""
    for n_gpu_layers in (-1, 10):
        engine = planned(GPU, N_GPU_LAYERS=n_gpu_layers, SPECULATE="lookup", NUM_DRAFT_TOKENS=5)
        assert engine.on_gpu
        assert engine.limits.max_batch_tokens == MAX_BATCH_ON_GPU
        assert (engine.limits.max_burst_tokens, engine.limits.max_idle) == (MAX_BURST_ON_GPU, MAX_IDLE_ON_GPU)
        assert engine.draft_limits == DraftLimits(MAX_DRAFTING_ON_GPU, 5, 512)
        assert engine.context.max_draft_tokens == MAX_DRAFTING_ON_GPU * 5


def test_free_memory_counts_where_the_whole_cache_is_there() -> None:
    """Not where some layers, and so a part of the cache, lie in main memory."""
    assert "free on 1 GPU(s)" in planned(GPU, KV_UNIFIED="on").cache.why
    assert "free on" not in planned(GPU, N_GPU_LAYERS=10).cache.why


def test_one_gpu_of_several() -> None:
    """With SPLIT_MODE=none only MAIN_GPU's memory counts."""
    machine = GPU._replace(free_gpu_bytes=(2 * GIB, 40 * GIB))
    assert "40.0 GiB free on 1 GPU(s)" in planned(machine, SPLIT_MODE="none", MAIN_GPU=1, KV_UNIFIED="on").cache.why
    assert "42.0 GiB free on 2 GPU(s)" in planned(machine, KV_UNIFIED="on").cache.why


@pytest.mark.parametrize(
    ("model", "environ", "is_unified"),
    [
        (FULL, {}, False),
        (WINDOW, {}, True),
        (RECURRENT, {}, True),
        (FULL, {"SPECULATE": "lookup"}, True),
        (FULL, {"MAX_NUM_SEQS": "1"}, True),
    ],
)
def test_who_shares_cells(model: ModelFacts, environ: dict[str, str], is_unified: bool) -> None:
    """Each slot has cells of its own where there is room, the model's memory can be copied, and nothing is drafted."""
    engine = planned(GPU._replace(free_gpu_bytes=(140 * GIB,)), model, **environ)
    assert engine.cache.is_unified is is_unified


@pytest.mark.parametrize(
    ("gib", "environ", "number"),
    [(140, {}, 64), (80, {}, 32), (20, {}, 16), (20, {"MAX_MODEL_LEN": "4096"}, 64), (140, {"MAX_NUM_SEQS": "8"}, 8)],
)
def test_as_many_chats_as_there_is_room_for(gib: int, environ: dict[str, str], number: int) -> None:
    """Where each has cells of its own; a number that is set is kept."""
    engine = planned(GPU._replace(free_gpu_bytes=(gib * GIB,)), FULL, **environ)
    assert engine.limits.max_num_seqs == number
    assert planned(CPU).limits.max_num_seqs == 16


def test_prompts_beside_answers() -> None:
    """A context of their own where each slot has cells of its own, within the memory there is."""
    machine = GPU._replace(free_gpu_bytes=(70 * GIB,))
    engine = planned(machine, MAX_NUM_SEQS=16, MAX_MODEL_LEN=4096)
    assert engine.prefill is not None
    assert engine.prefill.max_tokens == engine.cache.n_ctx // engine.cache.num_slots == 4096
    exact = planned(machine, MAX_NUM_SEQS=16, MAX_MODEL_LEN=4096, N_CTX=18 * 4096)
    assert (exact.cache.num_slots, exact.cache.is_unified) == (18, False)
    assert planned(machine, MAX_MODEL_LEN=4096, PREFILL_CONTEXT="off").prefill is None
    assert planned(machine, KV_UNIFIED="on").prefill is None
    assert planned(CPU, KV_UNIFIED="off").prefill is None


def test_half_of_a_chosen_size_may_be_tried() -> None:
    """A size that was set is not changed, nor is a cache that was to be split."""
    assert planned().can_shrink
    assert not planned(N_CTX=4096).can_shrink
    assert not planned(KV_UNIFIED="off", N_CTX=32 * 1024).can_shrink


@pytest.mark.parametrize(
    ("machine", "environ", "grid"),
    [
        (GPU, {"MAX_MODEL_LEN": 4096}, EXACT_GRID_ON_GPU),
        (GPU, {"MAX_NUM_SEQS": 1}, EXACT_GRID_ON_GPU),
        (GPU, {"MAX_MODEL_LEN": 4096, "SPECULATE": "lookup"}, EXACT_GRID_ON_GPU),
        (CPU, {"MAX_MODEL_LEN": 2048}, EXACT_GRID_ON_CPU),
        (CPU, {"N_CTX": 32 * 512, "N_BATCH": 48}, 48),
        (CPU, {"KV_UNIFIED": "off"}, EXACT_GRID_ON_CPU),
    ],
)
def test_exact_seeds_get_cells_of_their_own(machine: Machine, environ: dict[str, Any], grid: int) -> None:
    """By a part of prompts that is constant, and without a cache that might become a shared one."""
    engine = planned(machine, SEEDED="exact", **environ)
    assert not engine.cache.is_unified
    assert not engine.can_shrink
    assert engine.limits.exact_grid == grid
    assert not planned(machine, **environ).limits.exact_grid


@pytest.mark.parametrize(
    ("machine", "model", "environ", "advice"),
    [
        (CPU, FULL, {}, "set MAX_MODEL_LEN to the longest chat, by which"),
        (
            GPU._replace(free_gpu_bytes=(8 * GIB,)),
            FULL,
            {},
            "or MAX_NUM_SEQS to fewer .*With MAX_MODEL_LEN=",
        ),
        (GPU, FULL, {"KV_UNIFIED": "on"}, "set KV_UNIFIED to off, or leave it out"),
        (GPU, WINDOW, {}, "cannot be copied slot by slot"),
        (CPU, RECURRENT, {"MAX_MODEL_LEN": 2048}, "cannot be copied slot by slot"),
    ],
)
def test_exact_seeds_are_refused_where_cells_are_shared(
    machine: Machine, model: ModelFacts, environ: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigError, match=f"SEEDED has value 'exact', .*{advice}"):
        planned(machine, model, SEEDED="exact", **environ)


def test_a_step_holds_all_that_run_and_a_prompt() -> None:
    """However small N_BATCH is."""
    engine = planned(MAX_NUM_SEQS=100, N_BATCH=10)
    assert engine.limits.max_batch_tokens == engine.context.n_batch == 101
    assert engine.num_slots == 200


def test_more_than_the_model_was_made_for() -> None:
    """Longer sequences would be noise."""
    with pytest.raises(ConfigError, match="MAX_MODEL_LEN has value 32769: this model was made for 32768 at most"):
        planned(MAX_MODEL_LEN=32769)


def test_no_drafts_for_states() -> None:
    """Each wrong draft would cost everything that was computed."""
    with pytest.raises(ConfigError, match="SPECULATE has value 'lookup': recurrent and hybrid models"):
        planned(CPU, RECURRENT, SPECULATE="lookup")


def test_threads() -> None:
    """One a core, as far as sampling has use for them, unless set."""
    assert (planned(CPU).context.n_threads, planned(CPU).sampler_threads) == (2, 2)
    assert (planned(GPU).context.n_threads, planned(GPU).sampler_threads) == (64, 12)
    assert (planned(GPU, N_THREADS=3, SAMPLER_THREADS=4).sampler_threads) == 4


def test_what_the_loader_must_know() -> None:
    """Where the layers go, before there is a model to ask."""
    settings = Settings.from_env({"N_GPU_LAYERS": "7", "SPLIT_MODE": "row", "MAIN_GPU": "1", "TENSOR_SPLIT": "3,1"})
    assert offload(settings) == Offload(7, "row", 1, (3.0, 1.0))


@pytest.mark.parametrize(
    ("free", "environ", "expected"),
    [
        ([18], {}, True),
        ([17], {}, False),
        ([], {}, False),
        ([18, 18], {}, False),
        ([18, 18], {"SPLIT_MODE": "none"}, True),
        ([18, 8], {"SPLIT_MODE": "none", "MAIN_GPU": "1"}, False),
    ],
)
def test_room_for_a_second_copy_of_the_weights(free: list[int], environ: dict[str, str], expected: bool) -> None:
    """Of 16 GiB, on the one GPU that has the model, with some to spare."""
    settings = Settings.from_env(environ)
    assert has_room_to_expand(16 * GIB, tuple(number * GIB for number in free), settings) == expected


QUANTISED = FULL._replace(expanded_bytes=12 * GIB)


def test_the_cache_leaves_room_for_a_second_copy_of_the_weights() -> None:
    """By default: fewer finished conversations are kept then, and as many sequences run."""
    file, auto = (planned(GPU, QUANTISED, WEIGHTS=weights, MAX_MODEL_LEN=8192) for weights in ("file", "auto"))
    free = GPU.free_gpu_bytes[0] - auto.cache.n_ctx * QUANTISED.cache_shape.cell_bytes("f16", "f16")

    assert auto.limits.max_num_seqs == file.limits.max_num_seqs == 64
    assert auto.limits.max_num_seqs < auto.cache.num_slots < file.cache.num_slots
    assert has_room_to_expand(QUANTISED.expanded_bytes, (int(free),), Settings.from_env({}))


@pytest.mark.parametrize(
    ("machine", "model", "environ"),
    [
        (GPU, FULL, {}),  # nothing to expand
        (GPU, QUANTISED._replace(expanded_bytes=34 * GIB), {}),  # more than half of the memory
        (GPU, QUANTISED, {"MAX_MODEL_LEN": 16384}),  # the sequences would not fit any more
        (GPU, QUANTISED, {"PREFILL_CONTEXT": "off"}),
        (GPU._replace(free_gpu_bytes=(40 * GIB, 40 * GIB)), QUANTISED, {}),
        (CPU, QUANTISED, {}),
    ],
)
def test_a_second_copy_of_the_weights_takes_nothing_that_matters(
    machine: Machine, model: ModelFacts, environ: dict[str, Any]
) -> None:
    environ = {"MAX_MODEL_LEN": 8192} | environ
    assert planned(machine, model, WEIGHTS="auto", **environ) == planned(machine, model, WEIGHTS="file", **environ)


def test_a_batch_holds_a_whole_image() -> None:
    """Where an image's tokens see each other in both directions, llama.cpp must compute them in one piece."""
    seeing = FULL._replace(max_whole_run=1120)
    engine = planned(CPU, seeing)
    assert engine.context.n_batch == engine.context.n_ubatch == engine.limits.max_batch_tokens == 1120
    engine = planned(CPU, seeing, N_BATCH=2048, N_UBATCH=256)
    assert (engine.context.n_batch, engine.context.n_ubatch) == (2048, 1120)
