"""Drafts from a second, smaller model with the same vocabulary, and a cache of its own.

It follows each sequence that it is asked about: computes the tokens it has not seen, then guesses greedily, one token
after the other, for all sequences together. Wrong guesses are cut from its cache when the true tokens are known.

The engine thread waits for it, so a long prompt is followed in pieces, and there is no draft until it is caught up.
Knows nothing of the target's cache and batches.
"""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as List
from itertools import islice
from typing import Protocol

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.kv_cache import KVCache, Match, common_prefix_length
from handler.engine.engine import Runner
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.errors import CacheFullError, ConfigError, DecodeError

log = logging.getLogger(__name__)

GREEDY = SamplingParams(temperature=0)
# As llama.cpp compares vocabularies (common/speculative.cpp): models of one family differ in special tokens at the
# beginning, and in padding at the end. No text depends on it: what a draft gets wrong is not accepted.
MAX_SIZE_DIFFERENCE = 128
NUM_SPECIAL = 5


class DraftModel:
    """A `Drafter`. Owns its runner."""

    def __init__(self, runner: Runner, *, max_batch_tokens: int, num_target_tokens: int) -> None:
        """`max_batch_tokens`: of what it has not seen, so many are computed before a draft. `num_target_tokens`: how
        many tokens the target's vocabulary has."""
        self._runner = runner
        self._num_target_tokens = num_target_tokens
        self._cache = KVCache(runner.memory, num_slots=runner.num_slots, num_cells=runner.num_cells)
        self._max_batch_tokens = max_batch_tokens
        self._shadows: dict[Sequence, Shadow] = {}

    def propose(self, sequences: List[Sequence], max_tokens: List[int]) -> list[list[int]]:
        asked = [self._follow(sequence, limit) for sequence, limit in zip(sequences, max_tokens, strict=True)]
        try:
            self._draft([shadow for shadow in asked if shadow.max_tokens > 0])
        except CacheFullError:
            log.warning("The draft model's cache is smaller than it seemed: it forgets everything.")
            self._reset()
        except DecodeError:
            self._reset()
            raise
        return [self._draft_of(shadow) for shadow in asked]

    def forget(self, sequence: Sequence) -> None:
        if shadow := self._shadows.pop(sequence, None):
            self._release(shadow)
            shadow.sequence.close()

    def close(self) -> None:
        for sequence in list(self._shadows):
            self.forget(sequence)
        self._runner.close()

    def _follow(self, target: Sequence, max_tokens: int) -> "Shadow":
        """The sequence's shadow with all of its tokens, and as much of them computed as is true."""
        if target not in self._shadows:
            self._shadows[target] = Shadow(self._make_sequence(target))
        shadow = self._shadows[target]
        num_true = shadow.follow(target.token_ids)
        if slot := shadow.sequence.slot:
            self._cache.truncate(slot, min(slot.num_tokens, num_true, target.num_tokens - 1))
        knows = max(shadow.sequence.token_ids[num_true:], default=0) < self._runner.vocabulary.num_tokens
        shadow.knows_all &= knows
        room = self._runner.max_model_len - target.num_tokens
        shadow.max_tokens = min(max_tokens, room) if shadow.knows_all else 0
        return shadow

    def _make_sequence(self, target: Sequence) -> Sequence:
        return Sequence(
            [],
            target.params,
            vocabulary=self._runner.vocabulary,
            max_num_tokens=self._runner.max_model_len,
            sampler=self._runner.make_sampler(GREEDY, []),
        )

    def _draft(self, shadows: list["Shadow"]) -> None:
        """First what each has not seen, those with the least first; then a token for each that has more to guess."""
        shadows = [shadow for shadow in shadows if shadow.sequence.slot or self._claim(shadow, shadows)]
        batch, left = Batch(), self._max_batch_tokens
        for shadow in sorted(shadows, key=lambda shadow: shadow.sequence.num_pending_tokens):
            left -= self._add(batch, shadow, min(left, shadow.sequence.num_pending_tokens), shadows)
        while batch.items:
            drawing = self._compute(batch)
            batch = Batch()
            for shadow in shadows:
                if shadow.sequence in drawing and self._wants_more(shadow):
                    self._add(batch, shadow, 1, shadows)

    def _add(self, batch: Batch, shadow: "Shadow", num_tokens: int, shadows: list["Shadow"]) -> int:
        """How many tokens of it are in the batch now: all or none."""
        if not num_tokens or not self._make_room(batch.num_tokens + num_tokens, shadows):
            return 0
        batch.add(ScheduledSequence(shadow.sequence, shadow.sequence.num_computed_tokens, num_tokens))
        return num_tokens

    def _compute(self, batch: Batch) -> set[Sequence]:
        """The sequences that got a token."""
        drawn = self._runner.run(batch, lambda: None)
        drawing = [item.sequence for item in batch.sampling]
        self._cache.append((item.slot, item.token_ids) for item in batch.items)
        for sequence, tokens in zip(drawing, drawn, strict=True):
            sequence.token_ids.append(tokens[0].token_id)
        return set(drawing)

    def _wants_more(self, shadow: "Shadow") -> bool:
        return self._may_be_drafted(shadow.sequence.token_ids[-1]) and len(shadow.draft) < shadow.max_tokens

    def _draft_of(self, shadow: "Shadow") -> list[int]:
        draft = shadow.draft
        return draft[:-1] if draft and not self._may_be_drafted(draft[-1]) else draft

    def _may_be_drafted(self, token_id: int) -> bool:
        """Nothing follows the end of an answer, and the token that ends it is drawn without being guessed."""
        return token_id < self._num_target_tokens and not self._runner.vocabulary.is_end_of_generation(token_id)

    def _claim(self, shadow: "Shadow", shadows: list["Shadow"]) -> bool:
        """A slot for it. Whether there is one."""
        match: Match | None = None
        if not shadow.sequence.params.is_reproducible:
            match = self._cache.find_prefix(shadow.sequence.token_ids)
        elif not any(other.sequence.slot for other in self._shadows.values()):
            self._cache.reset()  # equal drafts for equal seeds: what is computed together changes the last bits
        shadow.sequence.slot = self._cache.claim(match)
        if shadow.sequence.slot is None and self._release_others(shadows):
            shadow.sequence.slot = self._cache.claim(match)
        return shadow.sequence.slot is not None

    def _make_room(self, num_cells: int, shadows: list["Shadow"]) -> bool:
        if self._cache.make_room(num_cells):
            return True
        return self._release_others(shadows) and self._cache.make_room(num_cells)

    def _release_others(self, shadows: list["Shadow"]) -> bool:
        """Take the slots of those who are not asked about now. Whether there were any."""
        others = [shadow for shadow in self._holding_slots() if shadow not in shadows]
        for shadow in others:
            self._release(shadow)
        return bool(others)

    def _release(self, shadow: "Shadow") -> None:
        if shadow.sequence.slot is not None:
            self._cache.release(shadow.sequence.slot)
            shadow.sequence.slot = None

    def _holding_slots(self) -> Iterator["Shadow"]:
        return (shadow for shadow in self._shadows.values() if shadow.sequence.slot)

    def _reset(self) -> None:
        """Nothing that was computed can be trusted, nor what was guessed from it."""
        for shadow in list(self._holding_slots()):
            self._release(shadow)
            del shadow.sequence.token_ids[shadow.num_known :]
        self._cache.reset()


class Shadow:
    """What the draft model knows of a sequence: its tokens as far as they were told, and a draft behind them."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence  # the draft model's own, with a slot of its cache
        self.num_known = 0
        self.max_tokens = 0  # of the draft
        self.knows_all = True  # no token is of the larger vocabulary alone

    @property
    def draft(self) -> list[int]:
        return self.sequence.token_ids[self.num_known :]

    def follow(self, token_ids: list[int]) -> int:
        """Take the tokens that have come, which replace the draft. How many of those it had were right."""
        told = token_ids[self.num_known :]
        num_right = self.num_known + common_prefix_length(self.draft, told)
        self.sequence.token_ids[num_right:] = token_ids[num_right:]
        self.num_known = len(token_ids)
        return num_right


class ComparableVocabulary(Protocol):
    @property
    def kind(self) -> int:
        """How it makes tokens of text, by llama.cpp's number."""
        ...

    def texts(self) -> list[bytes]:
        """Of all tokens."""
        ...


def check_same_vocabulary(target: ComparableVocabulary, draft: ComparableVocabulary) -> None:
    """Raise ConfigError where tokens of one would mean something else to the other."""
    difference = _difference(target, draft)
    if difference:
        raise ConfigError(
            f"DRAFT_MODEL has another vocabulary than MODEL: {difference}. Choose a smaller model of the same family."
        )


def _difference(target: ComparableVocabulary, draft: ComparableVocabulary) -> str:
    """In words; empty if there is none that matters."""
    if target.kind != draft.kind:
        return "another kind of tokenizer"
    expected, found = target.texts(), draft.texts()
    if abs(len(expected) - len(found)) > MAX_SIZE_DIFFERENCE:
        return f"{len(found)} tokens instead of {len(expected)}"
    pairs = islice(enumerate(zip(expected, found, strict=False)), NUM_SPECIAL, None)
    different = ((token_id, here, there) for token_id, (here, there) in pairs if here != there)
    return next((f"token {token_id} is {there!r} instead of {here!r}" for token_id, here, there in different), "")
