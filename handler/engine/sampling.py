"""Draws the tokens of one step, in a call that needs no GIL: see draw.c."""

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.native import Crew
from handler.engine.sampler import Pointer, SamplerChain, token_logprob
from handler.engine.sequence import SampledToken, Vocabulary
from handler.engine.token_mask import Logits, TokenMask


class StepSampler:
    """Called by the engine thread, after the device is done."""

    def __init__(self, context: Pointer, vocabulary: Vocabulary, num_threads: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._crew = Crew(vocabulary.num_tokens, num_threads)

    def close(self) -> None:
        self._crew.close()

    def sample(self, chains: list[SamplerChain], masks: list[TokenMask | None] | None = None) -> list[SampledToken]:
        """A token for each chain. The rows that have logits are theirs, in this order. Raises DecodeError.

        Logits of tokens that a mask forbids become minus infinity: they are ours until the next `llama_decode`.
        """
        if not chains:
            return []
        pointer = llama.llama_get_logits(self._context)
        logits: Logits = np.ctypeslib.as_array(pointer, shape=(len(chains), self._vocabulary.num_tokens))
        given = _mask(logits, masks, chains) if masks else logits
        addresses = [chain.request_for(row) for row, chain in enumerate(chains)]
        self._crew.draw(addresses, logits.ctypes.data)
        token_ids = [chain.drawn() for chain in chains]
        if not any(chain.num_logprobs is not None for chain in chains):
            return list(map(SampledToken, token_ids))
        return list(map(self._sampled, chains, given, token_ids))

    def _sampled(self, chain: SamplerChain, row: Logits, token_id: int) -> SampledToken:
        if chain.num_logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(row, token_id, chain.num_logprobs, self._vocabulary))


def _mask(logits: Logits, masks: list[TokenMask | None], chains: list[SamplerChain]) -> list[Logits]:
    """Forbid what the masks forbid; return the rows as they were, where logprobs are asked for."""
    given = list(logits)
    for index, (mask, chain) in enumerate(zip(masks, chains, strict=True)):
        if mask is not None:
            if chain.num_logprobs is not None:
                given[index] = logits[index].copy()
            mask.apply(logits[index])
    return given
