"""Draws the tokens of one step, in one call without the GIL: see draw.c."""

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.llama.draw import DrawPool
from handler.engine.llama.model import Pointer
from handler.engine.llama.sampler_chain import SamplerChain, token_logprob
from handler.engine.sequence import SampledToken
from handler.engine.structured.token_mask import Logits, TokenMask
from handler.engine.vocabulary import Vocabulary


class StepSampler:
    """Owns the pool of threads that draw. Engine thread only, while the context has logits.

    Knows chains, masks and rows; nothing of sequences and drafts.
    """

    def __init__(self, context: Pointer, vocabulary: Vocabulary, num_threads: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._pool = DrawPool(vocabulary.num_tokens, num_threads)

    def close(self) -> None:
        self._pool.close()

    def wait(self) -> Pointer:
        """Until the rows of the last `llama_decode` are there: their address. One call, since each gives the GIL away,
        which comes back late while an event loop is busy."""
        return llama.llama_get_logits(self._context)

    def sample(
        self,
        chains: list[SamplerChain],
        rows: list[int] | None = None,
        masks: list[TokenMask | None] | None = None,
        pointer: Pointer | None = None,
    ) -> list[SampledToken]:
        """A token for each chain from its row of logits (float32, (num_tokens,)); from the first rows if none are
        named. `pointer`: what `wait` gave, if it was called.

        Rows are numbered among the tokens of the batch that have logits. Logits that a mask forbids are set to minus
        infinity in place: they are ours until the next `llama_decode`. Raises DecodeError.
        """
        if not chains:
            return []
        rows, masks = rows or list(range(len(chains))), masks or [None] * len(chains)
        pointer = pointer or self.wait()
        if all(mask is None for mask in masks) and all(chain.num_logprobs is None for chain in chains):
            return list(map(SampledToken, self._draw(chains, rows, pointer)))
        logits: Logits = np.ctypeslib.as_array(pointer, shape=(max(rows) + 1, self._vocabulary.num_tokens))
        given = [_mask(logits[row], mask, chain) for row, mask, chain in zip(rows, masks, chains, strict=True)]
        return list(map(self._sampled, chains, given, self._draw(chains, rows, pointer)))

    def _draw(self, chains: list[SamplerChain], rows: list[int], logits: Pointer) -> list[int]:
        address = ctypes.cast(logits, ctypes.c_void_p).value
        assert address is not None, "rows were computed"
        self._pool.draw([chain.request_for(row) for row, chain in zip(rows, chains, strict=True)], address)
        return [chain.drawn() for chain in chains]

    def _sampled(self, chain: SamplerChain, row: Logits, token_id: int) -> SampledToken:
        if chain.num_logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(row, token_id, chain.num_logprobs, self._vocabulary))


def _mask(row: Logits, mask: TokenMask | None, chain: SamplerChain) -> Logits:
    """Apply the mask in place; return the row as it was, if logprobs are asked for."""
    if mask is None:
        return row
    given = row if chain.num_logprobs is None else row.copy()
    mask.apply(row)
    return given
