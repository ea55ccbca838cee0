"""Draws the tokens of one step, in a few threads.

A thread takes a share of the rows, and holds the GIL only to begin and to end: the likeliest tokens are found and the
chains draw from them in draw.c.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.native import REQUEST, Drawing, Requests
from handler.engine.sampler import Pointer, SamplerChain, token_logprob
from handler.engine.sequence import SampledToken, Vocabulary

FEW_COST, ALL_COST, THREAD_COST = 50, 400, 70  # us: a row from few candidates, or from all; a further thread

Logits = npt.NDArray[np.float32]


class StepSampler:
    """Called by the engine thread, after the device is done."""

    def __init__(self, context: Pointer, vocabulary: Vocabulary, num_threads: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._num_threads = num_threads
        self._drawing = Drawing(vocabulary.num_tokens)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="sampler")

    def close(self) -> None:
        self._pool.shutdown()

    def sample(self, chains: list[SamplerChain]) -> list[SampledToken]:
        """A token for each chain. The rows that have logits are theirs, in this order. Raises DecodeError."""
        if not chains:
            return []
        shape = (len(chains), self._vocabulary.num_tokens)
        logits: Logits = np.ctypeslib.as_array(llama.llama_get_logits(self._context), shape=shape)
        token_ids = self._draw(chains, logits)
        return [
            self._sampled(chain, row, token_id) for chain, row, token_id in zip(chains, logits, token_ids, strict=True)
        ]

    def _draw(self, chains: list[SamplerChain], logits: Logits) -> list[int]:
        touched = [chain.touched for chain in chains]
        also = np.concatenate(touched)
        ends = np.cumsum([len(token_ids) for token_ids in touched])
        requests = np.zeros(len(chains), REQUEST)
        requests["logits"] = logits.ctypes.data + np.arange(len(chains)) * logits.strides[0]
        requests["chain"] = [chain.address for chain in chains]
        requests["num"] = nums = [chain.num_candidates or self._vocabulary.num_tokens for chain in chains]
        requests["num_also"] = np.diff(ends, prepend=0)
        requests["also"] = also.ctypes.data + (ends - requests["num_also"]) * also.itemsize
        self._draw_shares(requests, self._num_shares(nums))
        token_ids: list[int] = requests["drawn"].tolist()
        for chain, token_id in zip(chains, token_ids, strict=True):
            chain.note(token_id)
        return token_ids

    def _draw_shares(self, requests: Requests, num_shares: int) -> None:
        size = -(-len(requests) // num_shares)
        others = [
            self._pool.submit(self._drawing.draw, requests[start : start + size])
            for start in range(size, len(requests), size)
        ]
        self._drawing.draw(requests[:size])
        for other in others:
            other.result()

    def _num_shares(self, nums: list[int]) -> int:
        """A further thread costs its time once, and each share the time of its rows: the least sum is at the root."""
        all_tokens = self._vocabulary.num_tokens
        cost = sum(ALL_COST if num == all_tokens else FEW_COST for num in nums)
        return min(self._num_threads, len(nums), max(1, round(math.sqrt(cost / THREAD_COST))))

    def _sampled(self, chain: SamplerChain, row: Logits, token_id: int) -> SampledToken:
        if chain.num_logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(row, token_id, chain.num_logprobs, self._vocabulary))
