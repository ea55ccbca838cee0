"""Decides what each engine step computes.

There is no prefill phase and no decode phase: every running sequence has pending tokens, one if it generates, more if
it is new or was preempted. `Scheduler.schedule` is the whole policy:

Decode first. Each generating sequence gets its one token, so a long prompt never stalls the others.

Burst admission. Sequences that have just finished prefill are held, for at most `max_burst_tokens` of further prefill,
until the rest of their burst has caught up, so that all decode in one large batch. Step time hardly depends on the
number of sequences, so a ragged tail of small batches is what costs.

Optimistic admission. A sequence needs room for its prompt and a margin, not for the longest possible answer. When the
cache is full all the same, the youngest running sequence is preempted: it gives its slot back and waits, and its tokens
so far become its prompt.

Prefill beside decode. Where there is a lane for it (prefill_lane.py), a new prompt is computed there while others
generate, and joins them when its keys and values are handed over. Its slot is claimed meanwhile. So are new prompts of
different lengths while nothing generates: the lane packs them, where a batch would be cut into parts of equal length.
In such a rush the others take a step only now and then, so that prompts have the device.

Shared prefill. A sequence whose prompt begins like one that is being prefilled waits for it, and is passed meanwhile by
others. So many requests with one system prompt compute it once.

Adapters. All of a step is computed with one adapter, or with none, and so is all of a slot. Sequences with different
ones take turns (adapter_turns.py); those whose turn it is not keep their slots meanwhile.

Scored prompts. Where the logprobs of a prompt's tokens are asked for, each position whose score is not known is
computed here with its row of logits, of which a step holds a bounded number; the cache and the lane have no logits.

Media. Embeddings of an image are a step of their own: llama.cpp computes embeddings or tokens, not both in one batch.
While there are tokens to compute too, such a step comes every second time at most.

Reproducible seeds. Equal seeds should give equal text, but what lies in the cache, and where, changes the last bits of
the arithmetic. So a sequence with a seed reuses nothing, and if it is alone it starts from an empty cache. With an
`exact_grid` it is exact instead: computed in steps of its own (exact_turns.py), between two steps of the others.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from handler.engine.adapter_turns import Adapter, AdapterTurns
from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.kv_cache import KVCache
from handler.engine.cache.prefix_order import TOKEN_BYTES
from handler.engine.cache.slot import Match
from handler.engine.exact_turns import ExactTurns
from handler.engine.prefill_lane import RUSH, NoPrefillLane, PrefillLane
from handler.engine.prefill_queue import Prefill
from handler.engine.prefill_shares import prefill_shares
from handler.engine.prefilling import Prefilling
from handler.engine.prompt_scores import MAX_SCORED_TOKENS
from handler.engine.sequence import FinishReason, SampledToken, Sequence, SequenceOutput, SequenceStatus
from handler.errors import EngineError, RequestError

MARGIN = 32  # cells left free for each running sequence when another is admitted
RUSH_STEPS = 4  # steps in a rush, for each burst's tokens, at least
FRESH = 8  # in a rush, a step also comes when one in so many sequences has no token yet and waits for nothing else

Outputs = list[tuple[Sequence, SequenceOutput | None]]  # None: the sequence writes it later


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts of sequences and tokens that bound a step."""

    max_num_seqs: int  # sequences that run at the same time
    max_batch_tokens: int  # tokens of one step
    max_prompt_tokens: int  # prefill tokens of a step in which others generate
    max_idle: int | None = None  # tokens that others generate until a cached conversation is evicted; None: no limit
    max_burst_tokens: int = 0  # prefill tokens for which sequences that have just begun are held
    exact_grid: int = 0  # prefill tokens of a step of a sequence with a seed; 0: it is computed with the others


class Scheduler:
    """Owns the queues of waiting and running sequences, and decides which slots of the cache they get.

    Engine thread only. Knows nothing of llama.cpp, threads, text and event loops, nor which kind of cache it has.
    """

    def __init__(self, cache: KVCache, limits: Limits, lane: PrefillLane | NoPrefillLane | None = None) -> None:
        self.cache = cache
        self._lane = lane or NoPrefillLane()
        self._in_lane: dict[Sequence, Prefill] = {}  # running, but not part of any batch
        self._refused: set[Sequence] = set()  # the lane failed on them
        self._exact = ExactTurns(limits.exact_grid, MAX_SCORED_TOKENS)
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of admission
        self.num_preemptions = 0
        self._turns = AdapterTurns()
        self._num_burst_tokens = 0  # prefilled so far while sequences were held
        self._is_rush = False  # the lane has most of the sequences, and had all when it began
        self._num_lane_tokens = 0  # computed in the lane by the last step of a rush
        self._is_under_pressure = False  # llama.cpp refused the last batch: the next one must be smaller
        self._was_media = False  # the last step was a media run

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def _may_admit(self) -> bool:
        is_full = len(self.running) >= self.limits.max_num_seqs
        return bool(self.waiting) and not is_full and not (self.running and self._is_under_pressure)

    @property
    def _sharing(self) -> list[Sequence]:
        """The running sequences that are computed together."""
        return self._exact.without(self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> Batch:
        """The next batch; empty only if there is no work but in the prefill lane."""
        batch = self._exact.next_batch()
        if not batch.items and not self._was_media:
            batch = self._media_batch()
        if not batch.items:
            batch = self._schedule_shared()
            self._exact.begin_round(self.running)
        if not batch.items:
            batch = self._exact.next_batch()
        if not batch.items:
            batch = self._media_batch()
        self._was_media = batch.run is not None
        assert batch.items or self._in_lane or not self.has_work, "there is work, but nothing was scheduled"
        return batch

    def _schedule_shared(self) -> Batch:
        """A step of the sequences that are not exact; empty if there is none that could be computed here."""
        batch = self._schedule_turn()
        if not batch.items and self._sharing and not self._in_lane:
            batch = self._schedule_turn()  # those whose turn it was have given their slots back: it is another's
        return batch

    def _schedule_turn(self) -> Batch:
        """The same for those whose adapter's turn it is."""
        limits, batch = self.limits, Batch()
        self.cache.prepare_step()
        self._take_from_lane()

        # 1. One token for each generating sequence, unless all of them are held for the rest of their burst.
        adapter = self._turns.choose(self._adapters())
        served = [sequence for sequence in self._sharing if sequence.adapter == adapter]
        generating = [sequence for sequence in served if sequence.num_pending_tokens == 1]
        others_come = len(generating) < len(served) or any(waiting.adapter == adapter for waiting in self.waiting)
        have_begun = any(sequence.num_completion_tokens > 1 for sequence in generating)
        is_burst = others_come and not have_begun and not self._in_lane
        are_held = is_burst and self._num_burst_tokens < limits.max_burst_tokens
        are_held = are_held or self._waits_in_rush(generating)
        if not are_held:
            self._num_burst_tokens = 0
            self._give_one_each(batch, generating)

        # 2. Admission, in order of arrival: the first one that finds no room stops those behind it, or it might starve.
        if self._may_admit:
            self._admit_waiting()
        if not generating:
            adapter = self._turns.choose(self._adapters())

        # 3. Prompts of which nothing is cached go to the prefill lane, if that is faster or disturbs less.
        self._fill_lane(others_generate=have_begun)

        # 4. Prefill with what is left of the batch.
        left = limits.max_batch_tokens - batch.num_tokens
        if batch.items:
            left = min(left, limits.max_prompt_tokens)
        others = {*generating, *self._in_lane}
        served = [sequence for sequence in self._sharing if sequence.adapter == adapter and sequence not in others]
        shares = prefill_shares(served, left)
        if generating and are_held:
            self._num_burst_tokens += sum(shares.values())
        for sequence, num_tokens in shares.items():
            self._give_tokens(batch, sequence, num_tokens)

        # 5. There was nothing to prefill after all: no reason to hold anything.
        if not batch.items and not (are_held and self._in_lane):
            self._give_one_each(batch, generating)

        is_pure = batch.num_tokens == len(batch.items)
        if batch.items:
            batch.padding_slots = self.cache.arrange(batch.items)
            self._turns.note_step()
        num_rows = len(batch.items) + len(batch.padding_slots)
        num_generating = (0 if are_held else len(generating)) + self._exact.num_generating(self.running)
        self._lane.begin_step(num_generating, num_rows if num_rows and is_pure else None)
        return batch

    def postprocess(self, batch: Batch, sampled: Iterable[list[SampledToken]]) -> Outputs:
        """Give the sampled tokens, in the order of `batch.sampling`, to their sequences; note what was computed, and
        remove rejected drafts from the cache."""
        self._is_under_pressure = False
        sampling = batch.sampling
        num_tokens = sum(item.sequence.num_tokens for item in sampling)
        for item in batch.items:
            if item.prompt_logprobs and item.sequence.prompt_scores is not None:
                item.sequence.prompt_scores.add(item.prompt_logprobs)
        outputs = [(item.sequence, item.sequence.advance(new)) for item, new in zip(sampling, sampled, strict=True)]
        self.cache.append((item.slot, item.true_token_ids) for item in batch.items)
        for item in batch.items:
            if item.draft_token_ids:
                self.cache.drop_rest(item.slot)
            if batch.is_exact and self._exact.is_reusable(item):
                self.cache.mark_exact(item.slot)
        self.cache.tick(sum(item.sequence.num_tokens for item in sampling) - num_tokens)
        for sequence, _ in outputs:
            if sequence.is_finished:
                self._remove(sequence)
        return outputs

    def abort(self, sequence: Sequence) -> None:
        """End a sequence without output. What it computed stays cached."""
        if not sequence.is_finished:
            sequence.finish(FinishReason.ABORT)
            self._remove(sequence)

    def fail(self, sequences: Iterable[Sequence], error: RequestError) -> Outputs:
        """End sequences with an error and forget all that was computed: none of it can be trusted."""
        outputs: Outputs = []
        for sequence in list(sequences):
            outputs.append((sequence, sequence.finish(FinishReason.ERROR, error=error)))
            self._remove(sequence)
        for sequence in reversed(self.running.copy()):
            self._preempt(sequence)
        self.cache.reset()
        return outputs

    def relieve_pressure(self) -> Outputs:
        """llama.cpp had no place for a batch that fits by our count: evict or preempt, so that the next one fits."""
        self._is_under_pressure = True
        if self.cache.evict(self.limits.max_batch_tokens):
            return []
        if len(self.running) == 1:
            error = EngineError("The model's memory cannot hold this request.", code="out_of_memory")
            return self.fail(self.running, error)
        self._preempt(self.running[-1])
        self.cache.evict(self.limits.max_batch_tokens)
        return []

    def _give_one_each(self, batch: Batch, generating: list[Sequence]) -> None:
        """One token of each, at once where there is room for all of them."""
        if self.cache.make_room(batch.num_tokens + len(generating)):
            batch.add_one_each(generating)
        else:
            for sequence in generating:
                self._give_tokens(batch, sequence, 1)

    def _give_tokens(self, batch: Batch, sequence: Sequence, num_tokens: int) -> None:
        """Put pending tokens of a running sequence into the batch; while the cache is full, preempt the youngest.

        Does nothing for a sequence that was preempted itself, here or before.
        """
        while num_tokens and sequence.status is SequenceStatus.RUNNING:
            if self.cache.make_room(batch.num_tokens + num_tokens):
                run = sequence.due_run
                batch.add(ScheduledSequence(sequence, sequence.num_computed_tokens, num_tokens, run=run))
                return
            youngest = self.running[-1]
            batch.remove(youngest)
            self._preempt(youngest)

    def _adapters(self) -> set[Adapter]:
        """Those with tokens to compute here."""
        here = (sequence for sequence in self._sharing if sequence not in self._in_lane and sequence.due_run is None)
        return {sequence.adapter for sequence in here}

    def _media_batch(self) -> Batch:
        """The run that the oldest sequence waits for; empty if none does."""
        batch = Batch()
        for sequence in self._sharing:
            if (run := sequence.due_run) is not None:
                self._give_tokens(batch, sequence, run.num_tokens)
                self._lane.begin_step(sum(other.num_pending_tokens == 1 for other in self.running), None)
                break
        return batch

    def _waits_in_rush(self, generating: list[Sequence]) -> bool:
        """Whether the lane should have the device for itself, until the first token of enough sequences can be drawn or
        enough prompt tokens were computed."""
        self._is_rush = self._is_rush and len(self._in_lane) * RUSH > len(generating)
        num_computed = self._lane.num_computed_tokens
        is_soon = (num_computed - self._num_lane_tokens) * RUSH_STEPS < self.limits.max_burst_tokens
        if self._is_rush and is_soon:
            num_fresh = sum(not sequence.num_completion_tokens for sequence in generating)
            if num_fresh * FRESH < len(self._sharing):
                return True
        self._num_lane_tokens = num_computed
        return False

    def _fill_lane(self, *, others_generate: bool) -> None:
        """Send what the lane takes: new prompts, whole.

        While nothing generates, prompts of one length stay here: llama.cpp computes them as one part, and nothing need
        be handed over.
        """
        new = [sequence for sequence in self._sharing if self._is_for_lane(sequence)]
        if others_generate or self._in_lane or len({sequence.num_tokens for sequence in new}) > 1:
            self._is_rush = self._is_rush or (bool(new) and not others_generate)
            for sequence in new:
                prefill = self._in_lane[sequence] = Prefill(sequence, sequence.token_ids[:-1])
                self._lane.submit(prefill)

    def _is_for_lane(self, sequence: Sequence) -> bool:
        is_new = not (sequence in self._in_lane or sequence in self._refused or sequence.num_computed_tokens)
        is_new = is_new and not sequence.is_scoring and not sequence.runs
        is_same = self._lane.is_exact or not sequence.params.is_reproducible
        return is_new and is_same and self._lane.takes(sequence.num_tokens - 1)

    def _take_from_lane(self) -> None:
        """Let sequences join the others whose prompts are computed; one that failed is computed here."""
        for prefill in self._lane.take_finished():
            sequence = prefill.sequence
            if self._in_lane.get(sequence) is not prefill:
                continue  # it was aborted or preempted meanwhile
            del self._in_lane[sequence]
            assert sequence.slot is not None, "it is running"
            if prefill.state is None or not self.cache.adopt(sequence.slot, prefill.token_ids, prefill.state):
                self._refused.add(sequence)

    def _admit_waiting(self) -> None:
        """In their order, those that need not wait for a prefix; one that must stays so while others are admitted."""
        prefilling, exact = Prefilling(self.running), self._exact.prefilling(self.running)
        for sequence in list(self.waiting):
            match = self._find_prefix(sequence)
            if self._waits_for_prefix(sequence, match, exact if self._exact.takes(sequence) else prefilling):
                continue
            if not self._admit(sequence, match) or not self._may_admit:
                return
            prefilling.add(sequence)
            if self._exact.is_shared(sequence):
                exact.add(sequence)

    def _find_prefix(self, sequence: Sequence) -> Match | None:
        """What a waiting sequence can reuse."""
        if self._exact.takes(sequence):
            return self.cache.find_exact_prefix(sequence.reusable_token_ids, self._exact.grid, adapter=sequence.adapter)
        if sequence.params.is_reproducible:
            return None
        return self.cache.find_prefix(sequence.reusable_token_ids, sequence.key, adapter=sequence.adapter)

    def _waits_for_prefix(self, sequence: Sequence, match: Match | None, prefilling: Prefilling) -> bool:
        """Whether a running sequence will soon hold more of this one's beginning than any slot does now."""
        is_alone = sequence.params.is_reproducible and not self._exact.takes(sequence)
        if is_alone or sequence.is_scoring or not self.cache.shares_prefixes:
            return False
        enough = max(self.cache.min_shared, 1 + (match.num_tokens if match else 0))
        return prefilling.will_hold(sequence.key[:-TOKEN_BYTES], enough, sequence.adapter)

    def _admit(self, sequence: Sequence, match: Match | None) -> bool:
        """Give it a slot, if its tokens fit beside what the running sequences hold, still have to compute, and a margin
        for each."""
        promised = sum(other.num_pending_tokens + MARGIN for other in self.running)
        if not self.cache.has_room(sequence.num_tokens, promised, match):
            return False
        if sequence.params.is_reproducible and not self._exact.takes(sequence) and not self.running:
            self.cache.reset()
        slot = self.cache.claim(match, sequence.adapter)
        if slot is None:
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.slot = slot
        sequence.status = SequenceStatus.RUNNING
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Its slot is cached now like that of a finished one: what is not evicted meanwhile will be found again."""
        self._release_slot(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(sequence)

    def _remove(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._release_slot(sequence)
        else:
            self.waiting.remove(sequence)

    def _release_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        if prefill := self._in_lane.pop(sequence, None):
            prefill.is_cancelled = True
        self._refused.discard(sequence)
        self.running.remove(sequence)
        self.cache.release(sequence.slot)
        sequence.slot = None
