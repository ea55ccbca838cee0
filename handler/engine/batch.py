"""What one `llama_decode` computes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from handler.engine.kv_cache import Slot
from handler.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`num_tokens` tokens of a sequence from position `start` on."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def slot(self) -> Slot:
        assert self.sequence.slot is not None, "it is running"
        return self.sequence.slot

    @property
    def token_ids(self) -> list[int]:
        return self.sequence.token_ids[self.start : self.start + self.num_tokens]

    @property
    def catches_up(self) -> bool:
        """Whether the sequence's last token is among them, so that its logits give the next token."""
        return self.start + self.num_tokens == self.sequence.num_tokens


@dataclass(slots=True)
class Batch:
    """Sequences in the order they lie in the batch; each sequence at most once."""

    items: list[ScheduledSequence] = field(default_factory=list)
    pads: list[Slot] = field(default_factory=list)  # a token that nobody wants comes after theirs, and goes again
    num_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_tokens = sum(item.num_tokens for item in self.items)

    @property
    def sampling(self) -> list[ScheduledSequence]:
        """The items that get a token, in the order their tokens come back."""
        return [item for item in self.items if item.catches_up]

    def add(self, item: ScheduledSequence) -> None:
        self.items.append(item)
        self.num_tokens += item.num_tokens

    def remove(self, sequence: Sequence) -> None:
        self.items = [item for item in self.items if item.sequence is not sequence]
        self.__post_init__()

    def lie_side_by_side(self, pads: Callable[[list[Slot]], list[Slot]]) -> None:
        """In the order of the slots, and with a token in those between them."""
        self.items.sort(key=lambda item: item.slot.seq_id)
        self.pads = pads([item.slot for item in self.items])
