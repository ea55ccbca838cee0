"""What one `llama_decode` computes. Pure code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from handler.engine.adapter_turns import Adapter
from handler.engine.cache.slot import Slot
from handler.engine.logprobs import TokenLogprob
from handler.engine.media_run import MediaRun
from handler.engine.sequence import Sequence


@dataclass(eq=False, slots=True)
class ScheduledSequence:
    """`num_tokens` tokens of a sequence from position `start` on, and a draft of what may follow them."""

    sequence: Sequence
    start: int
    num_tokens: int
    draft_token_ids: list[int] = field(default_factory=list)  # only after the sequence's last token
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # of `scored`, once the runner has them
    run: MediaRun | None = None  # what is computed instead of its tokens; then it is alone in its batch

    @property
    def slot(self) -> Slot:
        assert self.sequence.slot is not None, "it is running"
        return self.sequence.slot

    @property
    def num_rows(self) -> int:
        """Tokens to compute, draft included."""
        return self.num_tokens + len(self.draft_token_ids)

    @property
    def token_ids(self) -> list[int]:
        """The tokens to compute, draft included."""
        return self.sequence.token_ids[self.start : self.start + self.num_tokens] + self.draft_token_ids

    @property
    def true_token_ids(self) -> list[int]:
        """The computed tokens without the rejected drafts, once the sequence has been extended by the sampled ones.

        The last token of a sequence is never among them: it was sampled, and is computed in a later step.
        """
        token_ids, end = self.sequence.token_ids, self.start + self.num_tokens
        if self.draft_token_ids:
            end = min(end + len(self.draft_token_ids), len(token_ids) - 1)
        return token_ids[self.start : end]

    @property
    def scored(self) -> range:
        """Positions among its last ones whose rows of logits score the prompt's next tokens."""
        scores = self.sequence.prompt_scores
        return range(0) if scores is None else scores.wanted(self.start, self.num_tokens)

    @property
    def catches_up(self) -> bool:
        """Whether the sequence's last token is among them, so that its logits give the next token."""
        return self.start + self.num_tokens == len(self.sequence.token_ids)


@dataclass(slots=True)
class Batch:
    """The sequences of one step, in the order of their tokens; each sequence at most once, and all with one adapter.

    Made by the scheduler, computed by the runner; engine thread only.
    """

    items: list[ScheduledSequence] = field(default_factory=list)
    padding_slots: list[Slot] = field(default_factory=list)  # each gets one discarded token after its own
    is_exact: bool = False  # nothing may be computed with it: neither drafts nor padding
    num_tokens: int = field(init=False)  # without padding

    def __post_init__(self) -> None:
        self.num_tokens = sum(item.num_rows for item in self.items)

    @property
    def sampling(self) -> list[ScheduledSequence]:
        """The items for which tokens are sampled, in the order in which the runner returns them."""
        return [item for item in self.items if item.catches_up]

    @property
    def adapter(self) -> Adapter:
        """The one that all of it is computed with."""
        return self.items[0].sequence.adapter if self.items else None

    @property
    def run(self) -> MediaRun | None:
        """The embeddings that are all of this batch; None for one of tokens."""
        return self.items[0].run if self.items else None

    @property
    def is_decoding(self) -> bool:
        """Whether each item is one token whose logits give the next one. No such token is scored: nothing follows."""
        return self.num_tokens == len(self.items) and all(item.catches_up for item in self.items)

    @property
    def has_drafts(self) -> bool:
        return any(item.draft_token_ids for item in self.items)

    def add(self, item: ScheduledSequence) -> None:
        assert not self.items or item.sequence.adapter == self.adapter, "two adapters in one batch"
        self.items.append(item)
        self.num_tokens += item.num_rows

    def add_one_each(self, sequences: Iterable[Sequence]) -> None:
        """A token of each of some generating sequences."""
        new = [ScheduledSequence(sequence, sequence.num_computed_tokens, 1) for sequence in sequences]
        self.items += new
        self.num_tokens += len(new)

    def remove(self, sequence: Sequence) -> None:
        self.items = [item for item in self.items if item.sequence is not sequence]
        self.__post_init__()

    def set_drafts(self, drafts: Mapping[ScheduledSequence, list[int]]) -> None:
        """Replace all drafts; items that are not named have none."""
        for item in self.items:
            item.draft_token_ids = drafts.get(item, [])
        self.__post_init__()
