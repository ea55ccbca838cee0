"""From settings to a loaded model. Imports llama.cpp."""

import logging
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from handler.cpu_quota import num_usable_cores
from handler.embedding.embedder import Embedder
from handler.embedding.plan import EmbeddingPlan, plan_embedding, role_of
from handler.engine.engine import Engine
from handler.engine.llama.backend import supports_gpu
from handler.engine.llama.c_stream import CStream
from handler.engine.llama.embedding_runner import LlamaEmbeddingRunner
from handler.engine.llama.expanded_file import ExpandedFile
from handler.engine.llama.memory_info import free_gpu_bytes
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.prefill_context import LlamaPrefillContext
from handler.engine.media_encoder import MediaEncoder, Projector
from handler.engine.model_facts import ModelFacts, offload
from handler.engine.part_size import FixedPartSize, PartSize
from handler.engine.plan import EnginePlan, Machine, PrefillPlan, has_room_to_expand, plan
from handler.engine.prefill_lane import PrefillLane
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.engine.speculative.speculation import Speculation
from handler.engine.structured.grammar import GrammarCompiler
from handler.errors import ConfigError, ModelError
from handler.settings import Settings
from handler.stopwatch import Stopwatch
from handler.weights import Weights, load_weights, parts_at

if TYPE_CHECKING:
    from handler.engine.llama.projector import LlamaProjector

log = logging.getLogger(__name__)

LOADING = "loading"  # name of threads that load a model, as in loading_thread.py: the process does not wait for them
NUM_REQUESTS = 64  # of an embedder, that count as running


class LoadedModel(NamedTuple):
    """A model with its context, and how an engine is to use it."""

    runner: ModelRunner
    plan: EnginePlan
    prefill_context: LlamaPrefillContext | None = None
    expansion: "Expansion | None" = None  # of the weights for prompts; only where there is a prefill context
    projector: Projector | None = None  # by which the model sees images or hears sounds


class LoadedEmbedder(NamedTuple):
    """A model with a context that pools."""

    runner: LlamaEmbeddingRunner
    ranks: bool  # pairs get scores; else texts get vectors


AnyModel = LoadedModel | LoadedEmbedder


def load_model(settings: Settings) -> LoadedModel:
    """The same as `load_any_model`, for a model that must generate: ConfigError for another."""
    loaded = load_any_model(settings)
    if isinstance(loaded, LoadedEmbedder):
        loaded.runner.close()
        raise ConfigError(f"MODEL has value {settings.model!r}, which does not generate text.")
    return loaded


def load_any_model(settings: Settings) -> AnyModel:
    """Find or download the model and load it, for what it can do. Blocks; raises ModelError or ConfigError."""
    return open_model(load_weights(settings), settings)


def open_model(weights: Weights, settings: Settings) -> AnyModel:
    """A context for what the model can do, planned by its facts. The model is closed if that fails, with ModelError or
    ConfigError."""
    path, model, load_time, adapters, projector_path = weights
    projector: LlamaProjector | None = None
    try:
        if projector_path and role_of(settings, model.facts) == "generate":
            projector = _load_projector(projector_path, settings, model)
            load_time.lap("projector")
        any_plan = _plan(settings, model.facts, projector.max_whole_run if projector else 0)
        if adapters and isinstance(any_plan, EmbeddingPlan):
            raise ConfigError("LORAS is set: adapters are for models that generate text, and this one does not.")
    except BaseException:
        if projector:
            projector.close()
        model.close()
        raise
    if isinstance(any_plan, EmbeddingPlan):
        return _load_embedder(model, any_plan, load_time)
    loaded = _load_generator(model, any_plan, load_time)._replace(projector=projector)
    if settings.weights == "auto" and loaded.prefill_context and _expands(model, settings):
        return loaded._replace(expansion=Expansion(path, settings, loaded.runner, adapters))
    return loaded


def _expands(model: LlamaModel, settings: Settings) -> bool:
    """Whether a second copy of the weights is worth it, and there is room for it now, beside the whole cache."""
    if not (num_bytes := model.facts.expanded_bytes) or not CStream.is_supported():
        return False
    if has_room_to_expand(num_bytes, tuple(free_gpu_bytes()), settings):
        return True
    log.info("no room for a second copy of the weights: %.1f GB in 16 bits", num_bytes / 1e9)
    return False


def _load_generator(model: LlamaModel, engine_plan: EnginePlan, load_time: Stopwatch) -> LoadedModel:
    runner = ModelRunner(model, engine_plan)
    prefill_context = runner.open_prefill_context()
    load_time.lap("context")
    runner.warm_up()
    load_time.lap("warm-up")
    log.info(
        "model loaded in %s: %d slots %s a cache of %d tokens, %d a sequence at most",
        load_time, runner.num_slots, "share" if runner.memory.is_unified else "divide", runner.num_cells,
        runner.max_model_len,
    )  # fmt: skip
    return LoadedModel(runner, engine_plan, prefill_context)


def _plan(settings: Settings, model: ModelFacts, max_whole_run: int) -> EnginePlan | EmbeddingPlan:
    """For what the model can do. Raises ConfigError."""
    machine = Machine(num_usable_cores(), supports_gpu(), tuple(free_gpu_bytes()))
    if role_of(settings, model) == "generate":
        return plan(settings, machine, model._replace(max_whole_run=max_whole_run))
    return plan_embedding(settings, machine, model)


def _load_projector(path: Path, settings: Settings, model: LlamaModel) -> "LlamaProjector | None":
    """None for one that lies beside the model and does not fit it, which the log says. Raises ModelError for one that
    was set."""
    from handler.engine.llama.projector import LlamaProjector  # noqa: PLC0415 (loads a library, which a build may lack)

    try:
        projector = LlamaProjector(
            path,
            model,
            n_threads=settings.n_threads or num_usable_cores(),
            use_gpu=supports_gpu() and settings.n_gpu_layers != 0,
            image_tokens=(settings.image_min_tokens, settings.image_max_tokens),
        )
    except ModelError as error:
        if settings.mmproj != "auto":
            raise
        log.warning("%s The model serves without images; MMPROJ=off leaves out what lies beside it.", error)
        return None
    kinds = " and ".join(kind for kind, is_read in (("images", projector.sees), ("sounds", projector.hears)) if is_read)
    log.info("%s are read by %s", kinds, path)
    return projector


class Expansion(NamedTuple):
    """A copy of a loaded model's weights in 16 bits for its prompts, while the engine works. One token at a time is
    fastest with the file's weights, and a prompt's many are with these."""

    path: Path
    settings: Settings
    runner: ModelRunner
    adapters: Mapping[str, Path]  # of the loaded model

    def start(self, lane: PrefillLane) -> None:
        """In a thread that ends when the lane has them, or when there is no room, which the log says."""
        threading.Thread(target=self._run, args=(lane,), name=LOADING, daemon=True).start()

    def _run(self, lane: PrefillLane) -> None:
        try:
            time_taken = Stopwatch()
            if model := self._load():
                time_taken.lap("weights")
                log.info("prompts will be computed with 16-bit weights: %s", time_taken)
                lane.replace(_Expanded(self.runner, model))
        except ModelError as error:
            log.warning("%s Prompts are computed with the file's weights.", error)
        except Exception:
            log.exception("Prompts are computed with the file's weights.")

    def _load(self) -> LlamaModel | None:
        """None where nothing is quantised that could be expanded."""
        with closing(ExpandedFile(parts_at(self.path), max(1, num_usable_cores() // 2))) as expanded:
            if not expanded.num_expanded:
                return None
            model = LlamaModel(self.path, offload(self.settings), source=expanded)
        try:
            model.load_adapters(self.adapters)
        except BaseException:
            model.close()
            raise
        return model


class _Expanded(NamedTuple):
    """A `Successor`, on weights in 16 bits. It owns the model until it is opened; then the context does."""

    runner: ModelRunner
    model: LlamaModel

    def open(self) -> LlamaPrefillContext:
        try:
            return self.runner.open_expanded_prefill_context(self.model)
        except ModelError as error:
            log.warning("%s Prompts are computed with the file's weights.", error)
        if context := self.runner.open_prefill_context():
            return context
        raise ModelError("llama.cpp has no room for it any more.")

    def close(self) -> None:
        self.model.close()


def _load_embedder(model: LlamaModel, embedding_plan: EmbeddingPlan, load_time: Stopwatch) -> LoadedEmbedder:
    runner = LlamaEmbeddingRunner(model, embedding_plan)
    load_time.lap("context")
    runner.warm_up()
    load_time.lap("warm-up")
    log.info(
        "model loaded in %s: vectors of %d numbers by pooling %s; %d tokens an input at most, %d a batch",
        load_time, runner.width, embedding_plan.pooling, embedding_plan.max_len, embedding_plan.max_batch_tokens,
    )  # fmt: skip
    return LoadedEmbedder(runner, ranks=embedding_plan.pooling == "rank")


def start_embedder(model: LoadedEmbedder, *, max_queue: int) -> Embedder:
    """An embedder that owns the loaded model. `max_queue`: requests that may wait for a batch beside those in one."""
    return Embedder(model.runner, max_requests=NUM_REQUESTS + max_queue)


def start_engine(model: LoadedModel, *, max_queue: int) -> Engine:
    """An engine that owns the loaded model. `max_queue`: sequences that may wait."""
    runner, engine_plan, prefill_context, expansion, projector = model
    drafts = engine_plan.draft_limits
    lane = None
    if prefill_context and engine_plan.prefill:
        lane = PrefillLane(prefill_context, _part_sizes(engine_plan.prefill), is_exact=expansion is None)
        if expansion:
            expansion.start(lane)
    return Engine(
        runner,
        engine_plan.limits,
        max_queue=max_queue,
        schemas=GrammarCompiler(runner.vocabulary),
        speculation=Speculation(PromptLookup(), drafts) if drafts else None,
        lane=lane,
        encoder=MediaEncoder(projector) if projector else None,
    )


def _part_sizes(prefill: PrefillPlan) -> PartSize | FixedPartSize:
    if prefill.part_tokens:
        return FixedPartSize(prefill.part_tokens)
    return PartSize(prefill.max_gap, most=prefill.max_part)
