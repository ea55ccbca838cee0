"""GET /metrics: the engine's counters and the times of its steps, in Prometheus's text format.

Written out here, because one format of three kinds of numbers is less than a library for it.
"""

from collections.abc import Iterator
from itertools import accumulate

from handler.embedding.embedder import Embedder
from handler.engine.engine import Engine
from handler.engine.step_times import BOUNDS, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Of the fields of a state, under which name and what they are. An embedder has some of them, for its requests.
GAUGES = {
    "num_cells": ("engine_cells", "Cells of the KV cache."),
    "num_running": ("engine_running_sequences", "Sequences that generate or whose prompt is computed."),
    "num_waiting": ("engine_waiting_sequences", "Sequences that wait for a place."),
    "num_cached_slots": ("engine_cached_slots", "Finished conversations that are kept."),
    "num_used_cells": ("engine_used_cells", "Cells of the KV cache that hold a token."),
}
COUNTERS = {
    "num_prompt_tokens": ("engine_prompt_tokens_total", "Prompt tokens of finished sequences."),
    "num_cached_tokens": ("engine_cached_tokens_total", "Prompt tokens that were not computed again."),
    "num_completion_tokens": ("engine_completion_tokens_total", "Generated tokens of finished sequences."),
    "num_inputs": ("engine_embedded_inputs_total", "Inputs of which a vector or a score was computed."),
    "num_batches": ("engine_batches_total", "Batches of such inputs."),
    "num_finished": ("engine_finished_sequences_total", "Sequences that are over, in whatever way."),
    "num_aborted": ("engine_aborted_sequences_total", "Of these, those that were cancelled."),
    "num_preemptions": ("engine_preemptions_total", "How often a sequence gave its slot back to others."),
    "num_encoded_media": ("engine_encoded_media_total", "Images and sounds that were encoded: none twice while known."),
    "num_drafted_tokens": ("engine_drafted_tokens_total", "Tokens that were guessed and computed along."),
    "num_accepted_tokens": ("engine_accepted_tokens_total", "Of these, those that were drawn."),
}
STEP = "engine_step_seconds"


def render(engine: Engine | Embedder) -> str:
    return "".join(f"{line}\n" for line in _lines(engine))


def _lines(engine: Engine | Embedder) -> Iterator[str]:
    state = engine.state()
    for field, (name, meaning) in GAUGES.items():
        if field in state:
            yield from _metric(name, "gauge", meaning, state[field])
    for field, (name, meaning) in COUNTERS.items():
        if field in state:
            yield from _metric(name, "counter", meaning, state[field])
    yield from _head(STEP, "histogram", "Where the time of the engine's steps goes.")
    for phase, histogram in engine.step_times().items():
        yield from _histogram(phase, histogram)


def _metric(name: str, kind: str, meaning: str, value: int) -> Iterator[str]:
    yield from _head(name, kind, meaning)
    yield f"{name} {value}"


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _histogram(phase: str, histogram: Histogram) -> Iterator[str]:
    """Prometheus's buckets count everything up to their bound."""
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], accumulate(histogram.counts), strict=True):
        yield f'{STEP}_bucket{{phase="{phase}",le="{bound}"}} {count}'
    yield f'{STEP}_sum{{phase="{phase}"}} {histogram.total}'
    yield f'{STEP}_count{{phase="{phase}"}} {histogram.num_times}'
