"""Draws the tokens of one step, in a few threads.

A thread takes a share of the rows, and holds the GIL only to begin and to end: the likeliest tokens are found and the
chains draw from them in draw.c.
"""

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.native import Drawing
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
        logits = llama.llama_get_logits(self._context)
        addresses = [chain.request_for(row) for row, chain in enumerate(chains)]
        self._draw(addresses, ctypes.cast(logits, ctypes.c_void_p).value or 0, self._num_shares(chains))
        token_ids = [chain.drawn() for chain in chains]
        if not any(chain.num_logprobs is not None for chain in chains):
            return list(map(SampledToken, token_ids))
        rows: Logits = np.ctypeslib.as_array(logits, shape=(len(chains), self._vocabulary.num_tokens))
        return list(map(self._sampled, chains, rows, token_ids))

    def _draw(self, addresses: list[int], logits: int, num_shares: int) -> None:
        size = -(-len(addresses) // num_shares)
        others = [
            self._pool.submit(self._drawing.draw, addresses[start : start + size], logits)
            for start in range(size, len(addresses), size)
        ]
        self._drawing.draw(addresses[:size], logits)
        for other in others:
            other.result()

    def _num_shares(self, chains: list[SamplerChain]) -> int:
        """A further thread costs its time once, and each share the time of its rows: the least sum is at the root."""
        cost = sum(FEW_COST if chain.needs_few else ALL_COST for chain in chains)
        return min(self._num_threads, len(chains), max(1, round(math.sqrt(cost / THREAD_COST))))

    def _sampled(self, chain: SamplerChain, row: Logits, token_id: int) -> SampledToken:
        if chain.num_logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(row, token_id, chain.num_logprobs, self._vocabulary))
