"""Draws the tokens of one step: for all sequences together what can be, in a few threads.

Most chains need only the likeliest tokens. These are found for many rows at once, and the chains draw from them while
the thread holds the GIL, microseconds each. A chain that needs the whole vocabulary takes longer than all others, in a
call that gives the GIL back.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.candidates import Candidates, Indices, Logits, likeliest, max_candidates
from handler.engine.sampler import Pointer, SamplerChain, token_logprob
from handler.engine.sequence import SampledToken, Vocabulary

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
TOKEN_LIST = np.dtype(  # llama_token_data_array
    [("data", np.uintp), ("size", np.uintp), ("selected", np.int64), ("sorted", np.bool_)], align=True
)


class StepSampler:
    """Called by the engine thread, after the device is done."""

    def __init__(self, context: Pointer, vocabulary: Vocabulary, num_threads: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._max_candidates = max_candidates(vocabulary.num_tokens)
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="sampler")

    def close(self) -> None:
        self._pool.shutdown()

    def sample(
        self, chains: list[SamplerChain], rows: list[int], outputs: list[int] | None = None
    ) -> list[SampledToken]:
        """A token for each chain from the logits of its batch row.

        `outputs`: which of the rows with logits these are, counted from 0, ascending. Without it they are all of them.
        """
        if not chains:
            return []
        logits = self._logits(list(range(len(rows))) if outputs is None else outputs)
        size = -(-len(chains) // self._num_shares(chains))
        shares = [slice(start, start + size) for start in range(0, len(rows), size)]
        others = [self._pool.submit(self._sample_share, chains[s], rows[s], logits[s]) for s in shares[1:]]
        tokens = self._sample_share(chains[:size], rows[:size], logits[:size])
        return tokens + [token for other in others for token in other.result()]

    def _logits(self, outputs: list[int]) -> Logits:
        """Rows of llama.cpp's own memory; a copy where they do not follow each other."""
        shape = (outputs[-1] + 1, self._vocabulary.num_tokens)
        logits: Logits = np.ctypeslib.as_array(llama.llama_get_logits(self._context), shape=shape)
        follow_each_other = outputs[-1] - outputs[0] + 1 == len(outputs)
        return logits[outputs[0] :] if follow_each_other else logits[outputs]

    def _num_shares(self, chains: list[SamplerChain]) -> int:
        """A row with few candidates takes 40 us, a further thread 70 us of holding the GIL; other rows take 400."""
        num_few = sum(map(self._wants_few, chains))
        return min(self._num_threads, max(1, round(math.sqrt(num_few * 40 / 70)) + len(chains) - num_few))

    def _wants_few(self, chain: SamplerChain) -> bool:
        return chain.num_candidates is not None and chain.num_candidates <= self._max_candidates

    def _sample_share(self, chains: list[SamplerChain], rows: list[int], logits: Logits) -> list[SampledToken]:
        drawn = self._draw(chains, logits)
        token_ids = [
            chain.sample(self._context, row) if token_id is None else token_id
            for chain, row, token_id in zip(chains, rows, drawn, strict=True)
        ]
        return [
            self._sampled(chain, row_logits, token_id)
            for chain, row_logits, token_id in zip(chains, logits, token_ids, strict=True)
        ]

    def _draw(self, chains: list[SamplerChain], logits: Logits) -> Sequence[int | None]:
        """A token for each chain that needs few candidates."""
        few = [index for index, chain in enumerate(chains) if self._wants_few(chain)]
        num = max((chains[index].num_candidates or 0 for index in few), default=0)
        if not num:
            return [None] * len(chains)
        also = [index * logits.shape[1] + chains[index].touched for index in few]
        return _draw_from(likeliest(logits, num, np.concatenate(also)), chains, few)

    def _sampled(self, chain: SamplerChain, logits: Logits, token_id: int) -> SampledToken:
        if chain.num_logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(logits, token_id, chain.num_logprobs, self._vocabulary))


def _draw_from(candidates: Candidates, chains: list[SamplerChain], few: list[int]) -> list[int | None]:
    """A token for the chains with these indices, unless there are no candidates."""
    data = np.empty(len(candidates.token_ids), TOKEN_DATA)
    data["id"], data["logit"], data["p"] = candidates.token_ids, candidates.logits, 0
    lists = np.zeros(len(chains), TOKEN_LIST)
    lists["data"] = data.ctypes.data + candidates.starts[:-1] * TOKEN_DATA.itemsize
    lists["size"] = np.diff(candidates.starts)
    able: Indices = np.array(few, np.intp)[lists["size"][few] > 0]
    address = lists.ctypes.data
    for index in able.tolist():
        chains[index].apply(address + index * TOKEN_LIST.itemsize)
    drawn: list[int | None] = [None] * len(chains)
    token_ids = data["id"][candidates.starts[able] + lists["selected"][able]]
    for index, token_id in zip(able.tolist(), token_ids.tolist(), strict=True):
        chains[index].accept(token_id)
        drawn[index] = token_id
    return drawn
