"""Logprobs of a prompt's tokens, from the rows of logits before them."""

from concurrent.futures import ThreadPoolExecutor

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.llama.model import Pointer
from handler.engine.llama.sampler_chain import token_logprob
from handler.engine.logprobs import TokenLogprob
from handler.engine.structured.token_mask import Logits
from handler.engine.vocabulary import Vocabulary


class PromptScorer:
    """Owns threads that read rows side by side: NumPy releases the GIL. Engine thread only, while the context has
    logits. Knows nothing of sequences and batches."""

    def __init__(self, context: Pointer, vocabulary: Vocabulary, num_threads: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="scorer")  # started with the first row

    def score(self, first_row: int, token_ids: list[int], num_top: int) -> list[TokenLogprob]:
        """Each token's logprob and rank by its row of logits (float32, (num_tokens,)), and the `num_top` likeliest.

        Rows are numbered among the tokens of the batch that have logits, and follow each other.
        """
        end = first_row + len(token_ids)
        pointer = llama.llama_get_logits(self._context)
        logits: Logits = np.ctypeslib.as_array(pointer, shape=(end, self._vocabulary.num_tokens))

        def entry(row: Logits, token_id: int) -> TokenLogprob:
            rank = 1 + int(np.count_nonzero(row > row[token_id]))
            return token_logprob(row, token_id, num_top, self._vocabulary)._replace(rank=rank)

        return list(self._pool.map(entry, logits[first_row:end], token_ids))

    def close(self) -> None:
        self._pool.shutdown()
