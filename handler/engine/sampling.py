"""Draws the tokens of one step, in a call that needs no GIL: see draw.c."""

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.native import Crew
from handler.engine.sampler import Pointer, SamplerChain, token_logprob
from handler.engine.sequence import SampledToken, Vocabulary

Logits = npt.NDArray[np.float32]


class StepSampler:
    """Called by the engine thread, after the device is done."""

    def __init__(self, context: Pointer, vocabulary: Vocabulary, num_threads: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._crew = Crew(vocabulary.num_tokens, num_threads)

    def close(self) -> None:
        self._crew.close()

    def sample(self, chains: list[SamplerChain]) -> list[SampledToken]:
        """A token for each chain. The rows that have logits are theirs, in this order. Raises DecodeError."""
        if not chains:
            return []
        logits = llama.llama_get_logits(self._context)
        addresses = [chain.request_for(row) for row, chain in enumerate(chains)]
        self._crew.draw(addresses, ctypes.cast(logits, ctypes.c_void_p).value or 0)
        token_ids = [chain.drawn() for chain in chains]
        if not any(chain.num_logprobs is not None for chain in chains):
            return list(map(SampledToken, token_ids))
        rows: Logits = np.ctypeslib.as_array(logits, shape=(len(chains), self._vocabulary.num_tokens))
        return list(map(self._sampled, chains, rows, token_ids))

    def _sampled(self, chain: SamplerChain, row: Logits, token_id: int) -> SampledToken:
        if chain.num_logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(row, token_id, chain.num_logprobs, self._vocabulary))
