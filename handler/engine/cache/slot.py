"""A slot of the KV cache, and how much of a prompt it already holds. Pure code."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from handler.engine.adapter_turns import Adapter


@dataclass(eq=False, slots=True)
class Slot:
    """One llama.cpp seq_id and the tokens computed in it.

    It is *claimed* by exactly one running sequence, which appends to it; or *cached*: its sequence is over, and its
    tokens stay for prompts that begin with the same ones; or *empty*.
    """

    seq_id: int
    token_ids: list[int] = field(default_factory=list)
    adapter: Adapter = None  # that all of them were computed with
    is_claimed: bool = False
    last_used: int = 0  # by the clock of its SlotTable
    num_exact: int = 0  # first tokens that were computed as exact sequences compute them (exact_turns.py)
    key: bytearray = field(default_factory=bytearray)  # of its tokens, as of the last search (prefix_order.py)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_empty(self) -> bool:
        return not self.token_ids


class Placed(Protocol):
    """Something that is computed in a slot."""

    @property
    def slot(self) -> Slot: ...

    @property
    def num_rows(self) -> int:
        """Tokens to compute in it."""
        ...


P = TypeVar("P", bound=Placed)


class Match(NamedTuple):
    """A slot that holds the first `num_tokens` tokens of a prompt."""

    slot: Slot
    num_tokens: int

    @property
    def takes_all(self) -> bool:
        """Whether a sequence can continue in this very slot with nothing of it lost."""
        return not self.slot.is_claimed and self.num_tokens == self.slot.num_tokens
