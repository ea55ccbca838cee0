"""One sequence's llama.cpp sampler chain, and the logprobs of what it draws.

The order is llama.cpp's own: biases, penalties, DRY, the filters (top-k, typical, top-p, min-p, XTC), temperature, the
draw. For a top-k (or greedy) chain, sampling from the k highest logits plus all adjusted tokens gives exactly the draw
of the full row.
"""

import ctypes
import random
import weakref
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.llama.adjusted_tokens import AdjustedTokens
from handler.engine.llama.draw import DrawRequest
from handler.engine.llama.model import Pointer
from handler.engine.logprobs import TokenLogprob
from handler.engine.sampling_params import SamplingParams
from handler.engine.vocabulary import Vocabulary
from handler.errors import DecodeError

SEEDS = 2**32 - 1  # the last 32-bit number means "choose one" to llama.cpp
MIN_KEEP = 1

Part = Any  # a pointer to a llama_sampler, which its chain frees


class SamplerChain:
    """The `Sampler` of one sequence. Owns its llama.cpp chain; used by one thread at a time.

    Knows nothing of rows of logits but their numbers: draw.c reads them, by the request that this chain describes.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: list[int],
        *,
        vocab: Pointer,
        vocabulary: Vocabulary,
        max_tokens: int,
    ) -> None:
        self.num_logprobs = params.num_logprobs
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._finalizer = weakref.finalize(self, llama.llama_sampler_free, self._chain)
        self._num_kept = _num_kept(params)
        biases = _biases(params, vocabulary)
        self._adjusted = AdjustedTokens(params, prompt_token_ids, [token_id for token_id, _ in biases])
        for part in _parts(params, prompt_token_ids, vocab, vocabulary, max_tokens):
            llama.llama_sampler_chain_add(self._chain, part)

        self._request = DrawRequest(chain=ctypes.cast(self._chain, ctypes.c_void_p).value)
        self._address = ctypes.addressof(self._request)
        self._all_tokens = vocabulary.num_tokens
        self._candidates: npt.NDArray[np.intp] | None = None  # adjusted tokens that the request names; None: outdated

    def request_for(self, row: int) -> int:
        """The address of a DrawRequest for this row of logits; good until the next call."""
        request = self._request
        request.row = row
        if self._candidates is None:
            adjusted = self._candidates = self._adjusted.token_ids()  # kept: the request has its address
            request.num = self._all_tokens if self._num_kept is None else self._num_kept + len(adjusted)
            request.also, request.num_also = adjusted.ctypes.data, len(adjusted)
        return self._address

    def drawn(self) -> int:
        """The token that was drawn for the request, which llama.cpp's samplers have accepted. Raises DecodeError if
        there is none."""
        if (token_id := self._request.drawn) < 0:
            raise DecodeError("A sampler chain chose no token.")
        if self._adjusted.add(token_id):
            self._candidates = None
        return token_id

    def close(self) -> None:
        self._finalizer()


def _num_kept(params: SamplingParams) -> int | None:
    """The k of a top-k (greedy: 1) chain; None if it needs the whole vocabulary."""
    if params.dry_multiplier:  # adjusts every token that would continue a repetition
        return None
    if params.temperature <= 0:
        return 1
    return params.top_k if params.top_k > 0 else None


def _parts(
    params: SamplingParams,
    prompt_token_ids: list[int],
    vocab: Pointer,
    vocabulary: Vocabulary,
    max_tokens: int,
) -> Iterator[Part]:
    if biases := _biases(params, vocabulary):
        array = (llama.llama_logit_bias * len(biases))(*biases)
        yield llama.llama_sampler_init_logit_bias(vocabulary.num_tokens, len(biases), array)
    yield from _penalties(params, prompt_token_ids, vocabulary.num_tokens, max_tokens)
    if params.dry_multiplier:
        yield _dry(params, prompt_token_ids, vocab, max_tokens)
    if params.temperature <= 0:
        yield llama.llama_sampler_init_greedy()
    else:
        yield from _draw(params)


def _biases(params: SamplingParams, vocabulary: Vocabulary) -> list[tuple[int, float]]:
    """One for each token: llama.cpp would apply only the first of several."""
    biases = dict(params.logit_bias)
    if params.bans_end:
        biases.update(dict.fromkeys(vocabulary.end_of_generation, -np.inf))
    return list(biases.items())


def _penalties(params: SamplingParams, prompt_token_ids: list[int], num_tokens: int, max_tokens: int) -> Iterator[Part]:
    """The repeat penalty covers prompt and answer, as in llama.cpp; frequency and presence the answer, as in OpenAI."""
    if params.repeat_penalty != 1:
        last_n = _bounded(params.repeat_last_n, max_tokens)
        repeat = llama.llama_sampler_init_penalties(num_tokens, last_n, params.repeat_penalty, 0.0, 0.0)
        _accept(repeat, prompt_token_ids[max(0, len(prompt_token_ids) - last_n) :])
        yield repeat
    if params.frequency_penalty or params.presence_penalty:
        yield llama.llama_sampler_init_penalties(
            num_tokens, max_tokens, 1.0, params.frequency_penalty, params.presence_penalty
        )


def _bounded(last_n: int, max_tokens: int) -> int:
    """Tokens to look back at, -1 being all: llama.cpp allocates room for so many at once."""
    return max_tokens if last_n < 0 else min(last_n, max_tokens)


def _dry(params: SamplingParams, prompt_token_ids: list[int], vocab: Pointer, max_tokens: int) -> Part:
    breakers = [breaker.encode() for breaker in params.dry_sequence_breakers]
    dry = llama.llama_sampler_init_dry(
        vocab,
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        _bounded(params.dry_penalty_last_n, max_tokens),
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )
    _accept(dry, prompt_token_ids)
    return dry


def _draw(params: SamplingParams) -> Iterator[Part]:
    seed = random.randrange(SEEDS) if params.seed is None else params.seed % SEEDS
    if params.top_k > 0:
        yield llama.llama_sampler_init_top_k(params.top_k)
    if params.typical_p < 1:
        yield llama.llama_sampler_init_typical(params.typical_p, MIN_KEEP)
    if params.top_p < 1:
        yield llama.llama_sampler_init_top_p(params.top_p, MIN_KEEP)
    if params.min_p > 0:
        yield llama.llama_sampler_init_min_p(params.min_p, MIN_KEEP)
    if params.xtc_probability > 0:
        yield llama.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, MIN_KEEP, seed)
    yield llama.llama_sampler_init_temp(params.temperature)
    yield llama.llama_sampler_init_dist(seed)


def _accept(part: Part, token_ids: list[int]) -> None:
    for token_id in token_ids:
        llama.llama_sampler_accept(part, token_id)


def token_logprob(logits: npt.NDArray[np.float32], token_id: int, num_top: int, vocabulary: Vocabulary) -> TokenLogprob:
    """The token's logprob and those of the `num_top` likeliest, before biases, penalties and temperature.

    `logits`: one row, float32 of shape (num_tokens,).
    """
    peak = float(logits.max())
    log_total = peak + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))

    def entry(candidate: int) -> TokenLogprob:
        return TokenLogprob(candidate, vocabulary.piece(candidate), float(logits[candidate]) - log_total)

    likeliest = np.argpartition(logits, -num_top)[-num_top:] if num_top else np.empty(0, np.intp)
    top = likeliest[np.argsort(logits[likeliest])[::-1]]
    return entry(token_id)._replace(top=tuple(entry(int(candidate)) for candidate in top))
