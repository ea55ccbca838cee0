"""From settings to an engine: everything that is derived from them, the machine and the model, is derived here, once.

Pure code: no llama.cpp, no files, no environment.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from handler.engine.cache.cache_size import GIB, CacheRequest, CacheSize, Layout, on_gpus, without_gpu
from handler.engine.model_facts import ModelFacts
from handler.engine.prompt_scores import MAX_SCORED_TOKENS
from handler.engine.scheduler import Limits
from handler.engine.speculative.speculation import DraftLimits
from handler.errors import ConfigError
from handler.settings import Settings

MAX_SAMPLER_THREADS = 12
MAX_SLOTS = 256  # llama.cpp's own limit on seq_ids
MAX_BATCH_ON_GPU, MAX_BATCH_ON_CPU = 1024, 512  # tokens of a step
MAX_PROMPT_ON_GPU, MAX_PROMPT_ON_CPU = 96, 64  # prefill tokens of a step in which others generate
MAX_BURST_ON_GPU, MAX_BURST_ON_CPU = 8192, 2048  # prefill tokens: about a second, and some seconds
# What a cached token costs each token that others generate, and what it costs to compute anew: 20 ns and 80 us on an
# H100, 0.12 us and 8 ms on two CPU cores.
MAX_IDLE_ON_GPU, MAX_IDLE_ON_CPU = 4_000, 60_000
EXACT_GRID_ON_GPU, EXACT_GRID_ON_CPU = 256, 64  # prompt tokens that a request with an exact seed computes at once
MAX_DRAFTING_ON_GPU, MAX_DRAFTING_ON_CPU = 8, 4  # sequences: with more, a step has enough to compute without drafts


NUM_SEQS = 16
NUM_SEQS_ON_GPU = (64, 48, 32, 24)  # where each has cells of its own: the most that fit
SPARE = 1 / 8  # of them: slots for finished conversations while all run
NUM_PREFILL_LENGTHS = 2  # of the longest prompt, which the context for prompts has room for: others pass a long one
NUM_PREFILL_STREAMS = 32  # prompts in progress there at once


class Machine(NamedTuple):
    """What the worker runs on."""

    num_cores: int
    has_gpu: bool  # that this build of llama.cpp can use
    free_gpu_bytes: tuple[int, ...] = ()  # of each GPU, with the model in it


@dataclass(frozen=True, slots=True)
class ContextParams:
    """llama.cpp's own parameters of a context, under its names; the cache's are in a `CacheSize`."""

    n_batch: int
    n_ubatch: int
    n_threads: int
    flash_attn: str
    swa_full: bool
    max_draft_tokens: int = 0  # of all sequences of a batch
    max_scored_tokens: int = MAX_SCORED_TOKENS  # of the prompts of a batch


class PrefillPlan(NamedTuple):
    """A context for prompts beside the one that decodes."""

    num_streams: int  # prompts in progress
    num_cells: int  # tokens of all of them
    max_tokens: int  # of a prompt
    max_part: int  # tokens computed at once while nothing generates
    part_tokens: int  # of a part beside running sequences; 0: as many as the goal for gaps allows
    max_gap: float  # the goal: a step beside a part, in quiet steps


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """An engine as it will be, but for a cache that llama.cpp may refuse (`can_shrink`)."""

    on_gpu: bool  # whether the GPU computes while the engine thread does something else
    limits: Limits
    draft_limits: DraftLimits | None  # None: no speculation
    context: ContextParams
    cache: CacheSize
    can_shrink: bool  # the cache's size was chosen, not set: half of it may be tried
    num_slots: int  # of a cache that was shrunk
    max_model_len: int  # tokens of one sequence; 0: as many as model and cache allow
    sampler_threads: int
    prefill: PrefillPlan | None = None  # only where each slot has cells of its own


def has_room_to_expand(num_bytes: int, free_gpu_bytes: tuple[int, ...], settings: Settings) -> bool:
    """Whether a second copy of the weights, of so many bytes, fits beside a worker that is ready. Of several GPUs it is
    not known which holds what."""
    free = _gpus(settings, free_gpu_bytes)
    return len(free) == 1 and free[0] >= _room_to_expand(num_bytes)


def plan(settings: Settings, machine: Machine, model: ModelFacts) -> EnginePlan:
    """Raises ConfigError for settings that this model or machine cannot follow."""
    if settings.max_model_len > model.n_ctx_train:
        raise ConfigError(
            f"MAX_MODEL_LEN has value {settings.max_model_len}: this model was made for {model.n_ctx_train} at most."
        )
    if settings.speculate != "off" and model.has_states:
        raise ConfigError(
            f"SPECULATE has value '{settings.speculate}': recurrent and hybrid models keep only their latest state, "
            "and would compute everything anew after each wrong draft. Set it to off."
        )
    on_gpu = machine.has_gpu and settings.n_gpu_layers != 0
    n_batch = settings.n_batch or (MAX_BATCH_ON_GPU if on_gpu else MAX_BATCH_ON_CPU)
    max_num_seqs, cache = _num_seqs_and_cache(settings, machine, model, n_batch, on_gpu=on_gpu)
    if settings.weights == "auto" and not cache.is_unified and (less := _beside_expanded(settings, machine, model)):
        number, smaller = _num_seqs_and_cache(settings, less, model, n_batch, on_gpu=on_gpu, spare=0)
        cache = smaller if number == max_num_seqs and not smaller.is_unified else cache
    # Each running sequence gets its token, and there is room for a prompt's, and for an image.
    n_batch = max(n_batch, max_num_seqs + 1, model.max_whole_run)
    n_ubatch = _n_ubatch(settings, model, n_batch)
    draft_limits = None
    if settings.speculate != "off":
        max_drafting = MAX_DRAFTING_ON_GPU if on_gpu else MAX_DRAFTING_ON_CPU
        draft_limits = DraftLimits(max_drafting, settings.num_draft_tokens, n_ubatch)
    return EnginePlan(
        on_gpu=on_gpu,
        limits=Limits(
            max_num_seqs=max_num_seqs,
            max_batch_tokens=n_batch,
            max_prompt_tokens=settings.prefill_chunk or (MAX_PROMPT_ON_GPU if on_gpu else MAX_PROMPT_ON_CPU),
            max_burst_tokens=MAX_BURST_ON_GPU if on_gpu else MAX_BURST_ON_CPU,
            max_idle=MAX_IDLE_ON_GPU if on_gpu else MAX_IDLE_ON_CPU,
            exact_grid=_exact_grid(settings, model, cache, n_batch, on_gpu=on_gpu),
        ),
        draft_limits=draft_limits,
        context=ContextParams(
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_threads=settings.n_threads or machine.num_cores,
            flash_attn=settings.flash_attn,
            swa_full=settings.swa_full,
            max_draft_tokens=draft_limits.max_num_seqs * draft_limits.max_tokens if draft_limits else 0,
        ),
        cache=cache,
        can_shrink=not settings.n_ctx and settings.kv_unified != "off" and settings.seeded != "exact",
        num_slots=_num_slots(max_num_seqs),
        max_model_len=settings.max_model_len,
        sampler_threads=settings.sampler_threads or min(machine.num_cores, MAX_SAMPLER_THREADS),
        prefill=_prefill(settings, cache, n_ubatch, on_gpu=on_gpu),
    )


def _room_to_expand(num_bytes: int) -> int:
    """llama.cpp takes more as it computes, and ends the process where there is none. The copy's context takes the place
    of the other's."""
    return num_bytes + 2 * GIB


def _beside_expanded(settings: Settings, machine: Machine, model: ModelFacts) -> Machine | None:
    """The machine with room left for a second copy of the weights; None where that would be more than half of it."""
    free, room = _gpus(settings, machine.free_gpu_bytes), _room_to_expand(model.expanded_bytes)
    if len(free) != 1 or not model.expanded_bytes or settings.prefill_context == "off" or room > free[0] // 2:
        return None
    return machine._replace(free_gpu_bytes=tuple(num_bytes - room for num_bytes in machine.free_gpu_bytes))


def _gpus(settings: Settings, free_gpu_bytes: tuple[int, ...]) -> tuple[int, ...]:
    """Of the GPUs, those that the model is spread over."""
    return free_gpu_bytes[settings.main_gpu :][:1] if settings.split_mode == "none" else free_gpu_bytes


def _exact_grid(settings: Settings, model: ModelFacts, cache: CacheSize, n_batch: int, *, on_gpu: bool) -> int:
    """Raises ConfigError where slots share cells: then the order of sums depends on what the others hold."""
    if settings.seeded != "exact":
        return 0
    if not cache.is_unified:
        return min(EXACT_GRID_ON_GPU if on_gpu else EXACT_GRID_ON_CPU, n_batch)
    problem = "SEEDED has value 'exact', for which each sequence needs cells of its own"
    if settings.kv_unified == "on":
        raise ConfigError(f"{problem}: set KV_UNIFIED to off, or leave it out.")
    if not _can_split(model):
        raise ConfigError(f"{problem}: this model's memory cannot be copied slot by slot. Set it to fast.")
    if not on_gpu:
        raise ConfigError(f"{problem}: set MAX_MODEL_LEN to the longest chat, by which they are sized.")
    raise ConfigError(f"{problem}: set MAX_MODEL_LEN to the longest chat, or MAX_NUM_SEQS to fewer ({cache.why}).")


def _prefill(settings: Settings, cache: CacheSize, n_ubatch: int, *, on_gpu: bool) -> PrefillPlan | None:
    """On a GPU both contexts overlap; on a CPU they would only take turns."""
    if cache.is_unified or not on_gpu or settings.prefill_context == "off":
        return None
    longest = cache.n_ctx // cache.num_slots
    return PrefillPlan(
        NUM_PREFILL_STREAMS,
        num_cells=NUM_PREFILL_LENGTHS * longest,
        max_tokens=longest,
        max_part=max(n_ubatch, settings.prefill_part),
        part_tokens=settings.prefill_part,
        max_gap=settings.prefill_gap,
    )


def _n_ubatch(settings: Settings, model: ModelFacts, n_batch: int) -> int:
    """With a sliding window a batch is computed in one piece: of several, llama.cpp drops cells that a later piece has
    passed and an earlier one still needs, and gives wrong text."""
    return n_batch if model.window else min(max(settings.n_ubatch, model.max_whole_run), n_batch)


def _num_slots(max_num_seqs: int) -> int:
    """Half of them may keep cached conversations."""
    return min(2 * max_num_seqs, MAX_SLOTS)


def _num_seqs_and_cache(
    settings: Settings, machine: Machine, model: ModelFacts, n_batch: int, *, on_gpu: bool, spare: float = SPARE
) -> tuple[int, CacheSize]:
    """As many sequences as are set; else as many as have room for cells of their own, or the usual number. `spare`: of
    them, slots that a split cache must have beside theirs."""

    def cache_for(max_num_seqs: int) -> CacheSize:
        n_ubatch = _n_ubatch(settings, model, max(n_batch, max_num_seqs + 1, model.max_whole_run))
        num_needed = max_num_seqs + ceil(spare * max_num_seqs)
        return _cache_size(settings, machine, model, n_ubatch, max_num_seqs=max_num_seqs, num_needed=num_needed)

    if settings.max_num_seqs:
        return settings.max_num_seqs, cache_for(settings.max_num_seqs)
    for number in NUM_SEQS_ON_GPU if on_gpu and settings.kv_unified == "auto" else ():
        if not (cache := cache_for(number)).is_unified:
            return number, cache
    return NUM_SEQS, cache_for(NUM_SEQS)


def _cache_size(
    settings: Settings, machine: Machine, model: ModelFacts, n_ubatch: int, *, max_num_seqs: int, num_needed: int
) -> CacheSize:
    request = CacheRequest(
        n_ctx=settings.n_ctx,
        type_k=settings.cache_type_k,
        type_v=settings.cache_type_v,
        num_slots=_num_slots(max_num_seqs),
        max_model_len=settings.max_model_len,
        n_ubatch=n_ubatch,
        can_quantise=settings.flash_attn != "off",
        max_num_seqs=max_num_seqs,
        num_needed=num_needed,
        num_prefill_lengths=NUM_PREFILL_LENGTHS if settings.prefill_context == "auto" else 0,
        kv_unified=_layout(settings),
        can_split=_can_split(model),
    )
    free = list(_gpus(settings, machine.free_gpu_bytes))
    is_on_gpus = bool(free) and settings.n_gpu_layers < 0  # else a part of the cache lies in main memory
    if settings.seeded == "exact" and settings.kv_unified == "auto" and request.can_split:
        is_sized = not is_on_gpus and (settings.n_ctx or settings.max_model_len)
        if is_sized or max_num_seqs == 1:  # otherwise a split cache is chosen by the memory there is, or not at all
            request = request._replace(kv_unified="off")
    if not is_on_gpus:
        return without_gpu(request, model.n_ctx_train)
    return on_gpus(request, model.cache_shape, model.n_ctx_train, free)


def _can_split(model: ModelFacts) -> bool:
    return not model.has_states and not model.window


def _layout(settings: Settings) -> Layout:
    """Drafts of different lengths would be computed one after the other if each slot had cells of its own."""
    prefers_shared = settings.speculate != "off" and settings.seeded != "exact"
    return "on" if settings.kv_unified == "auto" and prefers_shared else settings.kv_unified
