"""Drawing for a whole step from few candidates: the same draws as llama.cpp makes from the whole vocabulary."""

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
import pytest

from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.sampler_chain import SamplerChain, token_logprob
from handler.engine.llama.step_sampler import StepSampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.structured.token_mask import Logits, TokenMask, num_words
from tests.engine.llama.tiny_engine import open_runner
from tests.tiny_models import Architecture

Counts = npt.NDArray[np.float64]

NUM_TOKENS = 64 * 60 + 7
NUM_DRAWS = 20_000
TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
TOKEN_LIST = np.dtype(  # llama_token_data_array
    [("data", np.uintp), ("size", np.uintp), ("selected", np.int64), ("sorted", np.bool_)], align=True
)
PLAIN = SamplingParams(temperature=1.2, top_k=12, top_p=0.9, min_p=0.02)
PROMPT = [7, 8, 9, 8]
KINDS = {
    "plain": PLAIN,
    "greedy": replace(PLAIN, temperature=0),
    "hot": replace(PLAIN, temperature=5.0, top_p=1.0, min_p=0.0),
    "typical": replace(PLAIN, typical_p=0.7),
    "xtc": replace(PLAIN, xtc_probability=0.5, xtc_threshold=0.05),
    "biased": replace(PLAIN, logit_bias=((0, 9.0), (1, -9.0), (NUM_TOKENS - 1, 8.0))),
    "repeat": replace(PLAIN, repeat_penalty=1.7, repeat_last_n=3),
    "grateful": replace(PLAIN, repeat_penalty=0.2, repeat_last_n=-1),
    "answer": replace(PLAIN, frequency_penalty=0.7, presence_penalty=-1.0),
    "dry": replace(PLAIN, dry_multiplier=1.0, dry_sequence_breakers=()),
    "everything": replace(PLAIN, top_k=0, top_p=1.0),
    "many": replace(PLAIN, top_k=NUM_TOKENS // 2),
}


class Words(NamedTuple):
    """A vocabulary larger than a tiny model's; nothing ends an answer but the last token."""

    num_tokens: int = NUM_TOKENS
    end_of_generation: frozenset[int] = frozenset({NUM_TOKENS - 1})

    def is_end_of_generation(self, token_id: int) -> bool:
        return token_id in self.end_of_generation

    def special_token(self, text: str) -> int | None:
        return None

    def piece(self, token_id: int) -> bytes:
        return b"%d " % token_id


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> Logits:
    """What llama.cpp would have computed: eight rows, the likeliest tokens anywhere in them."""
    rows = np.random.default_rng(3).normal(scale=2.0, size=(8, NUM_TOKENS)).astype(np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    monkeypatch.setattr(llama, "llama_get_logits", lambda _: rows.ctypes.data_as(pointer))
    return rows


@pytest.fixture(scope="module")
def runner(tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[ModelRunner]:
    runner = open_runner(tiny_model_paths["llama"], n_ctx=64)
    yield runner
    runner.close()


def make_chain(runner: ModelRunner, params: SamplingParams) -> SamplerChain:
    return SamplerChain(params, PROMPT, vocab=runner.vocabulary.vocab, vocabulary=Words(), max_tokens=1000)


def make_pairs(runner: ModelRunner, kinds: list[SamplingParams]) -> tuple[list[SamplerChain], list[SamplerChain]]:
    """One chain of each kind to test, and one to compare it with."""
    return [make_chain(runner, params) for params in kinds], [make_chain(runner, params) for params in kinds]


def from_all(chain: SamplerChain, row: Logits) -> int:
    """What `llama_sampler_sample` does: a list of the whole vocabulary through the chain."""
    data = np.zeros(NUM_TOKENS, TOKEN_DATA)
    data["id"], data["logit"] = np.arange(NUM_TOKENS), row
    lists = np.zeros(1, TOKEN_LIST)
    lists["data"], lists["size"] = data.ctypes.data, NUM_TOKENS
    pointer = ctypes.cast(lists.ctypes.data, ctypes.POINTER(llama.llama_token_data_array))
    llama.llama_sampler_apply(chain._chain, pointer)
    token_id = pointer.contents.data[pointer.contents.selected].id  # the data may begin elsewhere now
    llama.llama_sampler_accept(chain._chain, token_id)
    return int(token_id)


@pytest.mark.parametrize("params", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_equal_seeds_draw_the_same(
    params: SamplingParams, num_threads: int, runner: ModelRunner, logits: Logits
) -> None:
    """Token by token, with what penalties remember: few candidates give what the whole vocabulary gives."""
    sampler = StepSampler(None, Words(), num_threads)
    chains, plain = make_pairs(runner, [replace(params, seed=5)] * len(logits))
    for _ in range(20):
        drawn = [sampled.token_id for sampled in sampler.sample(chains)]
        assert drawn == [from_all(chain, row) for chain, row in zip(plain, logits, strict=True)]
    sampler.close()


def test_different_chains_in_one_step(runner: ModelRunner, logits: Logits) -> None:
    """Each chain draws what it draws alone, whatever number of candidates its neighbours need."""
    kinds = [replace(params, seed=9) for params in list(KINDS.values())[: len(logits)]]
    sampler = StepSampler(None, Words(), 2)
    chains, plain = make_pairs(runner, kinds)
    for _ in range(20):
        drawn = [sampled.token_id for sampled in sampler.sample(chains)]
        assert drawn == [from_all(chain, row) for chain, row in zip(plain, logits, strict=True)]
    sampler.close()


def make_mask(rng: np.random.Generator, num_allowed: int) -> TokenMask:
    allowed = np.zeros(32 * num_words(NUM_TOKENS), np.bool_)
    allowed[rng.choice(NUM_TOKENS, num_allowed, replace=False)] = True
    return TokenMask.from_words(np.packbits(allowed, bitorder="little").view(np.uint32), NUM_TOKENS)


def masked(row: Logits, mask: TokenMask | None) -> Logits:
    """A copy."""
    row = row.copy()
    if mask is not None:
        mask.apply(row)
    return row


@pytest.mark.parametrize("params", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_masked_rows_draw_what_the_plain_chain_draws(
    params: SamplingParams, num_threads: int, runner: ModelRunner, logits: Logits
) -> None:
    """With few or many tokens allowed, beside rows without a mask; nothing that is forbidden is ever drawn."""
    rng = np.random.default_rng(7)
    model_gave = logits.copy()
    sampler = StepSampler(None, Words(), num_threads)
    chains, plain = make_pairs(runner, [replace(params, seed=5)] * len(logits))
    for _ in range(20):
        logits[:] = model_gave
        masks = [make_mask(rng, num) for num in (1, 2, 11, 60, NUM_TOKENS // 2, NUM_TOKENS - 5)] + [None, None]
        drawn = [sampled.token_id for sampled in sampler.sample(chains, masks=masks)]
        rows = [masked(row, mask) for row, mask in zip(model_gave, masks, strict=True)]
        assert all(row[token_id] > -np.inf for row, token_id in zip(rows, drawn, strict=True))
        if params.typical_p == 1:  # llama.cpp's own takes the logarithm of 0 where tokens are left in
            assert drawn == [from_all(chain, row) for chain, row in zip(plain, rows, strict=True)]
    sampler.close()


def test_logprobs_are_the_models_own(runner: ModelRunner, logits: Logits) -> None:
    """A mask changes what is drawn, not what the model thought of it."""
    model_gave = logits.copy()
    sampler = StepSampler(None, Words(), 1)
    chains = [make_chain(runner, replace(KINDS["greedy"], num_logprobs=2)) for _ in logits]
    masks: list[TokenMask | None] = [make_mask(np.random.default_rng(8), 3) for _ in logits]
    for row, sampled in zip(model_gave, sampler.sample(chains, masks=masks), strict=True):
        assert sampled.logprob == token_logprob(row, sampled.token_id, 2, Words())
    sampler.close()


@pytest.mark.parametrize("params", [PLAIN, KINDS["hot"], KINDS["biased"]], ids=["plain", "hot", "biased"])
def test_draws_have_the_distribution_of_the_plain_chain(
    params: SamplingParams, runner: ModelRunner, logits: Logits
) -> None:
    """Chi-squared of many draws from few candidates against as many from the whole vocabulary, other seeds."""
    sampler = StepSampler(None, Words(), 1)
    few = [make_chain(runner, replace(params, seed=seed)) for seed in range(len(logits))]
    few_counts, all_counts = np.zeros(NUM_TOKENS), np.zeros(NUM_TOKENS)
    logits[:] = logits[0]
    for _ in range(NUM_DRAWS // len(logits)):
        for sampled in sampler.sample(few):
            few_counts[sampled.token_id] += 1
    plain = make_chain(runner, replace(params, seed=1000))
    for _ in range(NUM_DRAWS // 4):  # a list of the vocabulary each: slower
        all_counts[from_all(plain, logits[0])] += 1
    assert chi_squared_deviation(few_counts, all_counts) < 4.5


def chi_squared_deviation(a: Counts, b: Counts) -> float:
    """How many standard deviations the two-sample statistic lies above its expectation."""
    seen = a + b > 0
    share_a, share_b = np.sqrt(b.sum() / a.sum()), np.sqrt(a.sum() / b.sum())
    statistic = ((share_a * a[seen] - share_b * b[seen]) ** 2 / (a[seen] + b[seen])).sum()
    freedom = max(1, int(seen.sum()) - 1)
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def test_chi_squared_sees_a_difference() -> None:
    """Counts that differ by a fifth are distinguished."""
    a = np.full(10, 1000.0)
    b = a * np.linspace(0.8, 1.2, 10)
    assert chi_squared_deviation(a, a) < 0
    assert chi_squared_deviation(a, b) > 4.5


def test_a_row_that_is_not_of_numbers(runner: ModelRunner, logits: Logits) -> None:
    """llama.cpp decides what comes of it, and the others get their tokens."""
    logits[1, :] = np.nan
    sampler = StepSampler(None, Words(), 1)
    chains = [make_chain(runner, KINDS["greedy"]) for _ in logits]
    drawn = [sampled.token_id for sampled in sampler.sample(chains)]
    assert [drawn[row] for row in (0, 2, 7)] == [int(logits[row].argmax()) for row in (0, 2, 7)]
    sampler.close()


def test_ended_answers_are_not_candidates(runner: ModelRunner, logits: Logits) -> None:
    """A banned token is never drawn, though it is the likeliest."""
    logits[:, NUM_TOKENS - 1] = 50.0
    sampler = StepSampler(None, Words(), 1)
    chains = [make_chain(runner, replace(KINDS["greedy"], ignore_eos=True)) for _ in logits]
    drawn = [sampled.token_id for sampled in sampler.sample(chains)]
    assert drawn == [int(row[:-1].argmax()) for row in logits]
    sampler.close()


@pytest.mark.parametrize("outputs", [[3, 4], [1, 4, 6], [7]], ids=["neighbours", "apart", "one"])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_some_of_the_rows(outputs: list[int], num_threads: int, runner: ModelRunner, logits: Logits) -> None:
    """Chains get the rows that are named, for whatever kind of chain, and the others are not touched."""
    for params in (KINDS["plain"], KINDS["everything"]):
        sampler = StepSampler(None, Words(), num_threads)
        chains, plain = make_pairs(runner, [replace(params, seed=4)] * len(outputs))
        drawn = [sampled.token_id for sampled in sampler.sample(chains, outputs)]
        assert drawn == [from_all(chain, logits[output]) for chain, output in zip(plain, outputs, strict=True)]
        sampler.close()
