"""llama.cpp's memory of one context, as the caches need it."""

from typing import Any, Protocol


class Memory(Protocol):
    """Holds the keys and values (or states) of tokens, by seq_id. Engine thread only.

    Obeys and decides nothing: which slot holds what is the caches' knowledge.
    """

    @property
    def is_unified(self) -> bool:
        """Whether all slots share one buffer of cells; if not, each has a buffer of its own."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Whether the beginning of any slot can be copied to another; if not, a slot can only be continued."""
        ...

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        """Whether a sequence may continue after the first `num_tokens` tokens of this slot.

        False where the state at that point is gone: recurrent models keep only their latest state, sliding windows
        only the latest tokens.
        """
        ...

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Make `target`, which is empty, begin with the first `num_tokens` tokens of `source`."""
        ...

    def restore(self, seq_id: int, state: Any) -> bool:
        """Fill a slot, which is emptied first, with what a prefill context has computed; False if that fails."""
        ...

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        """Remove all but the first tokens; False if this memory cannot, and then nothing has changed."""
        ...

    def clear(self, seq_id: int) -> None:
        """Remove all tokens of a slot."""
        ...
