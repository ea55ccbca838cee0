"""Speculative decoding: which sequences of a step get a draft, and how long it may be.

A step of few sequences is bound by reading the weights, so computing some tokens more takes hardly longer. Tokens that
may follow are computed along, and the accepted ones are gained. A step of many sequences has enough to compute: then
there are no drafts.
"""

from dataclasses import dataclass

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.kv_cache import KVCache
from handler.engine.sequence import SampledToken, Sequence
from handler.engine.speculative.draft_length import DraftLength
from handler.engine.speculative.drafter import Drafter


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Counts of sequences and tokens that bound the drafts of a step."""

    max_num_seqs: int  # sequences in a step with drafts
    max_tokens: int  # of one draft
    max_batch_tokens: int  # of a step with drafts: n_ubatch, what llama.cpp computes in one piece


class Speculation:
    """Adds drafts to batches, and learns from what becomes of them. Owns the drafter.

    Engine thread only. Knows nothing of llama.cpp and of how drafts are made. Drafts take only what is left over,
    tokens of the batch and free cells: nothing is evicted or preempted for them.
    """

    def __init__(self, drafter: Drafter, limits: DraftLimits) -> None:
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        self._drafter = drafter
        self._limits = limits
        self._lengths: dict[Sequence, DraftLength] = {}

    def add_drafts(self, batch: Batch, cache: KVCache) -> None:
        """Put drafts behind the tokens of generating sequences. Raises DecodeError."""
        if batch.is_exact or len(batch.items) > self._limits.max_num_seqs:
            return
        left = min(cache.num_free_cells, self._limits.max_batch_tokens) - batch.num_tokens
        lengths: dict[ScheduledSequence, int] = {}
        for item in batch.sampling:
            if item.num_tokens == 1 and item.sequence.may_draft:
                length = min(self._length(item.sequence), item.sequence.num_left - 1, left)
                if length > 0:
                    lengths[item] = length
                    left -= length
        if lengths:
            drafts = self._drafter.propose([item.sequence for item in lengths], list(lengths.values()))
            batch.set_drafts(dict(zip(lengths, drafts, strict=True)))

    def learn(self, batch: Batch, sampled: list[list[SampledToken]]) -> None:
        """Note how much of each draft was accepted; `sampled` as the runner returned it."""
        for item, tokens in zip(batch.sampling, sampled, strict=True):
            if num_drafted := len(item.draft_token_ids):
                self._lengths[item.sequence].learn(num_drafted, len(tokens) - 1)
                self.num_drafted_tokens += num_drafted
                self.num_accepted_tokens += len(tokens) - 1

    def forget(self, sequence: Sequence) -> None:
        """The sequence is finished."""
        self._lengths.pop(sequence, None)
        self._drafter.forget(sequence)

    def close(self) -> None:
        self._drafter.close()

    def _length(self, sequence: Sequence) -> int:
        if sequence not in self._lengths:
            self._lengths[sequence] = DraftLength(self._limits.max_tokens)
        return self._lengths[sequence].next()


class NoSpeculation:
    """What the engine has instead of a `Speculation` where that is off: nothing is ever drafted."""

    num_drafted_tokens = 0
    num_accepted_tokens = 0

    def add_drafts(self, batch: Batch, cache: KVCache) -> None: ...

    def learn(self, batch: Batch, sampled: list[list[SampledToken]]) -> None: ...

    def forget(self, sequence: Sequence) -> None: ...

    def close(self) -> None: ...
