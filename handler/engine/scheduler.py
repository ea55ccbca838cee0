"""Decides what each engine step computes.

There is no prompt phase and no generation phase: every running sequence has pending tokens, one if it generates, more
if it is new or was preempted. A step gives one token to each sequence that generates, admits waiting ones, and fills
the batch with chunks of what the others have pending.

Those who have just begun wait for prompts that came with them. Side by side they generate to the end; one after the
other, the last would be few, and a step costs nearly as much for few as for many.

Admission is optimistic: room for the prompt and a margin, not for the longest possible answer. When the cache is
full all the same, the youngest running sequence gives its slot back and waits; its tokens so far become its prompt.

A cached conversation is paid for by everyone who generates: its cells lie among theirs, and each step passes over
them. When that has cost about as much as computing it anew would, it goes, though there is room.

Equal seeds should give equal text, but what lies in the cache, and where, changes the last bits of the arithmetic. So
a sequence with a seed reuses nothing, and if it is alone it starts from an empty cache: then it repeats exactly.

Engine thread only. Knows nothing of llama.cpp, threads and text.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.kv_cache import KVCache, Match, common_prefix_length
from handler.engine.sequence import FinishReason, SampledToken, Sequence, SequenceOutput, SequenceStatus
from handler.errors import EngineError, RequestError

MARGIN = 32  # cells left free for each running sequence when another is admitted

Outputs = list[tuple[Sequence, SequenceOutput]]


@dataclass(frozen=True, slots=True)
class Limits:
    max_num_seqs: int  # sequences that run at the same time
    max_batch_tokens: int  # tokens of one step
    max_prompt_tokens: int  # prompt tokens of a step in which others generate, so that they do not stall
    max_idle: int | None = None  # tokens that others generate until a finished conversation is forgotten; None: no end
    max_burst_tokens: int = 0  # prompt tokens for which those who have just begun wait


class Scheduler:
    def __init__(self, cache: KVCache, limits: Limits) -> None:
        self.cache = cache
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order they were admitted
        self.num_preemptions = 0
        self._num_burst_tokens = 0  # for which those who have just begun have waited
        self._is_under_pressure = False  # llama.cpp refused the last batch: the next one must be smaller

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> Batch:
        """The next batch; never empty while there is work."""
        batch = Batch()
        if self.limits.max_idle is not None:
            self.cache.expire(self.limits.max_idle)
        self.cache.compact()
        generating = [sequence for sequence in self.running if sequence.num_pending_tokens == 1]
        if not self._waits_for_others(generating):
            self._give_each_a_token(batch, generating)
        while self._admit_one():
            pass
        for sequence, share in self._prompt_shares(batch, generating).items():
            self._give_tokens(batch, sequence, share)
        if not batch.items:
            self._give_each_a_token(batch, generating)
        if not self.cache.is_unified:
            batch.order_by_slot(self.cache.padding_slots)
        assert batch.items or not self.has_work, "there is work, but nothing was scheduled"
        return batch

    def _waits_for_others(self, generating: list[Sequence]) -> bool:
        """Whether all who generate have just begun, and others are about to."""
        others_come = bool(self.waiting) or len(generating) < len(self.running)
        have_begun = any(sequence.num_completion_tokens > 1 for sequence in generating)
        if have_begun or not others_come or self._num_burst_tokens >= self.limits.max_burst_tokens:
            self._num_burst_tokens = 0
            return False
        return True

    def _give_each_a_token(self, batch: Batch, generating: list[Sequence]) -> None:
        for sequence in generating:
            self._give_tokens(batch, sequence, 1)

    def postprocess(self, batch: Batch, sampled: Iterable[list[SampledToken]]) -> Outputs:
        """Give the sampled tokens, in the order of `batch.sampling`, to their sequences; note what was computed, and
        remove what was drafted in vain."""
        self._is_under_pressure = False
        sampling = batch.sampling
        num_tokens = sum(item.sequence.num_tokens for item in sampling)
        outputs = [(item.sequence, item.sequence.extend(new)) for item, new in zip(sampling, sampled, strict=True)]
        self.cache.append((item.slot, item.true_token_ids) for item in batch.items)
        for item in batch.items:
            if item.draft_token_ids:
                self.cache.drop_rest(item.slot)
        self.cache.tick(sum(item.sequence.num_tokens for item in sampling) - num_tokens)
        for sequence, _ in outputs:
            if sequence.is_finished:
                self._leave(sequence)
        return outputs

    def abort(self, sequence: Sequence) -> None:
        """Nobody waits for this sequence any more. What it computed stays cached; there is no output."""
        if not sequence.is_finished:
            sequence.finish(FinishReason.ABORT)
            self._leave(sequence)

    def fail(self, sequences: Iterable[Sequence], error: RequestError) -> Outputs:
        """End sequences with an error and forget all that was computed: none of it can be trusted."""
        outputs = [(sequence, sequence.finish(FinishReason.ERROR, error=error)) for sequence in list(sequences)]
        for sequence, _ in outputs:
            self._leave(sequence)
        for sequence in reversed(self.running.copy()):
            self._preempt(sequence)
        self.cache.reset()
        return outputs

    def relieve_pressure(self) -> Outputs:
        """llama.cpp has no place for a batch that fits by our count: give something up, so that the next one fits."""
        self._is_under_pressure = True
        if self.cache.evict(self.limits.max_batch_tokens):
            return []
        if len(self.running) == 1:
            error = EngineError("The model's memory cannot hold this request.", code="out_of_memory")
            return self.fail(self.running, error)
        self._preempt(self.running[-1])
        self.cache.evict(self.limits.max_batch_tokens)
        return []

    def _give_tokens(self, batch: Batch, sequence: Sequence, num_tokens: int) -> None:
        """Put pending tokens of a running sequence into the batch, at the cost of younger ones if the cache is full.

        Nothing is done if the sequence had to give way itself, here or before.
        """
        while num_tokens and sequence.status is SequenceStatus.RUNNING:
            if self.cache.make_room(batch.num_tokens + num_tokens):
                batch.add(ScheduledSequence(sequence, sequence.num_computed_tokens, num_tokens))
                return
            youngest = self.running[-1]
            batch.remove(youngest)
            self._preempt(youngest)

    def _prompt_shares(self, batch: Batch, generating: list[Sequence]) -> dict[Sequence, int]:
        """How many tokens each running sequence gets that does not generate, oldest first.

        Half of what there is belongs to the oldest, the rest to those with the least to compute: a short prompt does
        not wait for a long one to end, nor a long one for ever.
        """
        shares = dict.fromkeys(self.running, 0)
        for sequence in generating:
            shares.pop(sequence, None)  # it may have had to give way
        left = self.limits.max_batch_tokens - batch.num_tokens
        if batch.items:
            left = min(left, self.limits.max_prompt_tokens)
        turns = [(sequence, (left + 1) // 2) for sequence in list(shares)[:1]]
        turns += [(sequence, left) for sequence in sorted(shares, key=lambda sequence: sequence.num_pending_tokens)]
        for sequence, limit in turns:
            more = min(sequence.num_pending_tokens - shares[sequence], limit, left)
            shares[sequence] += more
            left -= more
        if generating and not batch.items:
            self._num_burst_tokens += sum(shares.values())
        return shares

    def _admit_one(self) -> Sequence | None:
        """The first waiting sequence that need not wait for a prefix, if there is a slot and room for it."""
        if len(self.running) >= self.limits.max_num_seqs or (self.running and self._is_under_pressure):
            return None
        for sequence in self.waiting:
            match = None if sequence.params.is_reproducible else self.cache.find_prefix(sequence.token_ids)
            if not self._is_being_computed(sequence, match):
                return self._admit(sequence, match) if self._has_room(sequence, match) else None
        return None

    def _admit(self, sequence: Sequence, match: Match | None) -> Sequence | None:
        if sequence.params.is_reproducible and not self.running:
            self.cache.reset()
        slot = self.cache.claim(match)
        if slot is None:
            return None
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.slot = slot
        sequence.status = SequenceStatus.RUNNING
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        return sequence

    def _is_being_computed(self, sequence: Sequence, match: Match | None) -> bool:
        """Whether a running sequence will soon hold more of this one's beginning than any slot does now."""
        if sequence.params.is_reproducible or not self.cache.shares_prefixes:
            return False
        enough = max(self.cache.min_shared, 1 + (match.num_tokens if match else 0))
        return any(
            common_prefix_length(other.token_ids, sequence.token_ids[:-1]) >= max(enough, other.num_computed_tokens + 1)
            for other in self.running
            if other.num_pending_tokens > 1
        )

    def _has_room(self, sequence: Sequence, match: Match | None) -> bool:
        """Whether its tokens fit beside what the running sequences hold, still have to compute, and a margin."""
        promised = sum(other.num_pending_tokens + MARGIN for other in self.running)
        return self.cache.has_room(sequence.num_tokens, promised, match)

    def _preempt(self, sequence: Sequence) -> None:
        """Its slot is cached now like that of a finished one: what nobody needs of it will be found again."""
        self._release(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._release(sequence)
        else:
            self.waiting.remove(sequence)

    def _release(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.running.remove(sequence)
        self.cache.release(sequence.slot)
        sequence.slot = None
