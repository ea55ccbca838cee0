"""Speculative decoding: which sequences of a step get a draft, and how long it may be.

A step of few sequences takes nearly as long for some tokens more, because its time goes into reading the weights. So
tokens that may follow are computed along, and those that turn out right are gained. With many sequences a step has
enough to compute: then there are no drafts.

Drafts take only what is left over: tokens of the batch, cells that are free. Nobody is evicted or preempted for them.

Engine thread only. Knows nothing of llama.cpp and of how drafts are made.
"""

from dataclasses import dataclass

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.sequence import SampledToken, Sequence
from handler.engine.speculative.draft_length import DraftLength
from handler.engine.speculative.drafter import Drafter


@dataclass(frozen=True, slots=True)
class DraftLimits:
    max_num_seqs: int  # sequences in a step with drafts
    max_tokens: int  # of one draft
    max_batch_tokens: (
        int  # of a step with drafts: what llama.cpp computes at once, or they would cost a part of their own
    )


class Speculation:
    def __init__(self, drafter: Drafter, limits: DraftLimits) -> None:
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        self._drafter = drafter
        self._limits = limits
        self._lengths: dict[Sequence, DraftLength] = {}

    def add_drafts(self, batch: Batch, num_free_cells: int) -> None:
        """Put drafts into the batch. Raises DecodeError."""
        if len(batch.items) > self._limits.max_num_seqs:
            return
        lengths = self._share(batch, min(num_free_cells, self._limits.max_batch_tokens) - batch.num_tokens)
        items, max_tokens = list(lengths), list(lengths.values())
        if items:
            drafts = self._drafter.propose([item.sequence for item in items], max_tokens)
            batch.set_drafts(dict(zip(items, drafts, strict=True)))

    def learn(self, batch: Batch, drawn: list[list[SampledToken]]) -> None:
        """What became of the batch's drafts; `drawn` as the runner gave it."""
        for item, tokens in zip(batch.sampling, drawn, strict=True):
            if num_drafted := len(item.draft_token_ids):
                self._lengths[item.sequence].learn(num_drafted, len(tokens) - 1)
                self.num_drafted_tokens += num_drafted
                self.num_accepted_tokens += len(tokens) - 1

    def forget(self, sequence: Sequence) -> None:
        """It is over."""
        self._lengths.pop(sequence, None)
        self._drafter.forget(sequence)

    def close(self) -> None:
        self._drafter.close()

    def _share(self, batch: Batch, left: int) -> dict[ScheduledSequence, int]:
        """How long the drafts may be, for those that get one."""
        generating = [item for item in batch.sampling if item.num_tokens == 1 and item.sequence.may_draft]
        lengths: dict[ScheduledSequence, int] = {}
        for item in generating:
            length = min(self._length(item.sequence), item.sequence.num_left - 1, left)
            if length > 0:
                lengths[item] = length
                left -= length
        return lengths

    def _length(self, sequence: Sequence) -> int:
        if sequence not in self._lengths:
            self._lengths[sequence] = DraftLength(self._limits.max_tokens)
        return self._lengths[sequence].next()
