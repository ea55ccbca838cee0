"""Prompts that are scored, on a tiny model: the logprobs are those of llama.cpp's own logits, however they are cut."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
import pytest

from handler.engine.cache.cache_size import Layout
from handler.engine.engine import Engine
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import native_params
from handler.engine.llama.model import LlamaModel
from handler.engine.logprobs import ScoredPrompt
from handler.engine.sampling_params import SamplingParams
from tests.engine.asking import GREEDY
from tests.engine.llama.tiny_engine import ON_CPU, open_engine, tiny_plan
from tests.tiny_models import Architecture

PROMPTS = [[5 + (number * 31 + place * place) % 200 for place in range(40 + 60 * number)] for number in range(4)]
SCORED = SamplingParams(temperature=0, max_tokens=2, num_prompt_logprobs=3)

Matrix = npt.NDArray[np.float64]


@pytest.fixture(
    params=[("on", 32, False), ("off", 32, False), ("off", 128, True)],
    ids=["shared cells", "cells of their own", "computed at the launch"],
)
def engine(request: pytest.FixtureRequest, tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[Engine]:
    kv_unified: Layout = request.param[0]
    n_ubatch, on_gpu = request.param[1:]
    with open_engine(
        tiny_model_paths["llama"], n_batch=128, n_ubatch=n_ubatch, kv_unified=kv_unified, on_gpu=on_gpu
    ) as engine:
        yield engine


def reference(path: Path, token_ids: list[int]) -> Matrix:
    """A log-softmax of the logits at each position, computed at once."""
    model = LlamaModel(path, ON_CPU)
    plan = tiny_plan(n_ctx=512, n_batch=512, flash_attn="off", cache_type="f32")
    params = native_params(replace(plan.context, max_scored_tokens=512), plan.cache)
    context = llama.llama_init_from_model(model.pointer, params)
    buffer = BatchBuffer(512)
    buffer.fill_inputs([token_ids])
    assert llama.llama_decode(context, buffer.struct) == 0
    shape = (len(token_ids), llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.pointer)))
    logits = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=shape).astype(np.float64)
    llama.llama_free(context)
    model.close()
    peaks = logits.max(axis=1, keepdims=True)
    logprobs: Matrix = logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))
    return logprobs


def assert_scores(prompt: ScoredPrompt | None, token_ids: list[int], logprobs: Matrix) -> None:
    assert prompt is not None
    assert [prompt.token_id, *(entry.token_id for entry in prompt.others)] == token_ids
    for entry, row in zip(prompt.others, logprobs, strict=False):
        assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-3)
        assert entry.rank == 1 + int((row > row[entry.token_id]).sum())
        assert [top.token_id for top in entry.top] == np.argsort(-row)[:3].tolist()


async def test_scores(engine: Engine, tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """Four prompts at once, beside an answer and with a beginning that is cached: all have their own logprobs."""
    whole = await (await engine.generate([PROMPTS[3][:100]], GREEDY)).result()
    beside = await engine.generate([[9, 8, 7]], replace(GREEDY, max_tokens=40))
    outputs = await (await engine.generate([*PROMPTS], SCORED)).result()
    await beside.result()

    assert whole
    for token_ids, output in zip(PROMPTS, outputs, strict=True):
        assert_scores(output.prompt, token_ids, reference(tiny_model_paths["llama"], token_ids))


async def test_the_answer_is_the_same(engine: Engine) -> None:
    """With scores or without."""
    scored = await (await engine.generate([PROMPTS[2]], replace(SCORED, max_tokens=12))).result()
    plain = await (await engine.generate([PROMPTS[2]], SamplingParams(temperature=0, max_tokens=12))).result()
    assert scored[0].text == plain[0].text
