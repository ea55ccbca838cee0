"""Which seeded sequence computes next by itself, and how much: answers that are equal to the bit whatever else runs.

The last bits of a sum depend on its order, and llama.cpp's kernels choose the order by the shape of what is computed at
once: how many tokens, of how many sequences, and how long the longest of them is. So where exactness is asked for, all
of a seeded sequence is computed in calls of `llama_decode` that hold nothing else, not even padding. Its prompt is cut
at multiples of `grid` tokens and around media, its answer into single tokens, also where it is computed anew after a
preemption. With cells of its own (split_cache.py) each call's shape then follows from the sequence alone. A part of the
prompt may be taken from a slot whose tokens were computed in such calls (`Slot.num_exact`): they are equal to the bit
too.

The price is a call for each such sequence and token, where the others share one. Pure code.
"""

from collections import deque
from collections.abc import Iterable

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.prefilling import Prefilling
from handler.engine.sequence import Sequence, SequenceStatus


class ExactTurns:
    """Rounds in which each exact sequence gets one step, before the others share one. Engine thread only."""

    def __init__(self, grid: int, max_scored_tokens: int) -> None:
        """`grid`: tokens of a prompt's whole part; 0: no sequence is exact. `max_scored_tokens`: of a part of a prompt
        that is scored."""
        self.grid = grid
        self._max_scored_tokens = max_scored_tokens
        self._round: deque[Sequence] = deque()  # that have not had their turn

    def takes(self, sequence: Sequence) -> bool:
        """Whether it is exact: computed in steps of its own."""
        return bool(self.grid) and sequence.params.seed is not None

    def is_shared(self, sequence: Sequence) -> bool:
        """Whether it is exact, and other exact sequences may take parts of its prompt."""
        return self.takes(sequence) and sequence.prompt_scores is None

    def prefilling(self, running: Iterable[Sequence]) -> Prefilling:
        """Exact sequences that compute what others may wait for."""
        return Prefilling(filter(self.is_shared, running), self.grid) if self.grid else Prefilling(())

    def without(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of some sequences that are not exact."""
        return [sequence for sequence in sequences if not self.takes(sequence)] if self.grid else sequences

    def num_generating(self, running: Iterable[Sequence]) -> int:
        """Exact ones that have one token to compute."""
        exact = filter(self.takes, running) if self.grid else ()
        return sum(sequence.num_pending_tokens == 1 for sequence in exact)

    def begin_round(self, running: Iterable[Sequence]) -> None:
        if self.grid:
            self._round.extend(filter(self.takes, running))

    def next_batch(self) -> Batch:
        """The step of the next one; empty where the round is over."""
        while self._round:
            sequence = self._round.popleft()
            if sequence.status is SequenceStatus.RUNNING:  # it may have been aborted or preempted meanwhile
                start, run = sequence.num_computed_tokens, sequence.due_run
                num_tokens = run.num_tokens if run else self._num_tokens(sequence)
                return Batch([ScheduledSequence(sequence, start, num_tokens, run=run)], is_exact=True)
        return Batch()

    def is_reusable(self, item: ScheduledSequence) -> bool:
        """Whether other sequences may take what was computed: a whole part, and without logits, which every prompt that
        is longer computes in the same way."""
        sequence = item.sequence
        has_logits = sequence.prompt_scores is not None or item.start + self.grid >= sequence.num_prompt_tokens
        return item.num_tokens == self.grid and not has_logits

    def _num_tokens(self, sequence: Sequence) -> int:
        start = sequence.num_computed_tokens
        end = min((start // self.grid + 1) * self.grid, sequence.num_prompt_tokens)
        most = self.grid if sequence.prompt_scores is None else self._max_scored_tokens
        return max(1, min(end - start, sequence.num_due_tokens, most))
