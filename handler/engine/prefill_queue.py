"""Which prompts the prefill lane computes next, and how much of each. Pure code.

A part has exactly as many tokens as it should while there is work for it: prompts of any lengths are put behind each
other, so nothing is padded, and the last piece of one prompt shares its part with the first of another.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from handler.engine.sequence import Sequence

PASSING = 4  # a prompt is passed by shorter ones until so many times its tokens were computed since it came


@dataclass(eq=False, slots=True)
class Prefill:
    """One prompt on its way through the lane: all of its tokens but the last, whose logits give the first token."""

    sequence: Sequence
    token_ids: list[int]
    num_computed: int = 0
    state: Any = None  # as a `Memory` restores it; None until it is finished, and for ever if it failed
    is_cancelled: bool = False  # set by the engine thread; the lane looks between two parts
    stream: int | None = None  # of the prefill context, from its first piece on
    came_after: int = 0  # tokens that its queue had given out by then

    @property
    def num_left(self) -> int:
        return len(self.token_ids) - self.num_computed


class Piece(NamedTuple):
    """Tokens of one prompt within a part."""

    prefill: Prefill
    stream: int
    start: int  # position of the first one
    token_ids: list[int]


class PrefillQueue:
    """The prompts of a lane, and the streams and cells of its context that they hold. One thread's.

    Those with the least left go first, so that most first tokens come early; but what was computed since a prompt came
    counts for it, so that long ones come too (aging: a queue of the shortest alone may let them wait for ever).
    """

    def __init__(self, num_streams: int, num_cells: int) -> None:
        """`num_cells`: tokens that all streams together hold; at least those of the longest prompt."""
        self._num_cells = num_cells
        self._free_streams = list(range(num_streams))
        self._prefills: list[Prefill] = []
        self._num_given = 0  # tokens, in all parts

    def __len__(self) -> int:
        return len(self._prefills)

    def add(self, prefill: Prefill) -> None:
        prefill.came_after = self._num_given
        self._prefills.append(prefill)

    def remove(self, prefill: Prefill) -> None:
        """It is finished, or given up; its stream is free."""
        self._prefills.remove(prefill)
        if prefill.stream is not None:
            self._free_streams.append(prefill.stream)

    def remove_cancelled(self) -> None:
        for prefill in [prefill for prefill in self._prefills if prefill.is_cancelled]:
            self.remove(prefill)

    def next_part(self, num_tokens: int) -> list[Piece]:
        """At most so many tokens, and at least one if there are prompts; all of one adapter, that of the first. Those
        that begin get a stream.

        Where there is no room for one that is to begin, none behind it begins either, or it might wait for ever.
        """
        pieces: list[Piece] = []
        left, has_room = num_tokens, True
        for prefill in sorted(self._prefills, key=_rank):
            if not left:
                break
            if pieces and prefill.sequence.adapter != pieces[0].prefill.sequence.adapter:
                continue
            if prefill.stream is None:
                has_room = has_room and self._begin(prefill)
            if prefill.stream is not None:
                start = prefill.num_computed
                pieces.append(Piece(prefill, prefill.stream, start, prefill.token_ids[start : start + left]))
                left -= len(pieces[-1].token_ids)
        self._num_given += num_tokens - left
        return pieces

    def _begin(self, prefill: Prefill) -> bool:
        """Give it a stream, if there is room for all of it."""
        held = sum(len(other.token_ids) for other in self._prefills if other.stream is not None)
        if not self._free_streams or held + len(prefill.token_ids) > self._num_cells:
            return False
        prefill.stream = self._free_streams.pop(0)
        return True


def _rank(prefill: Prefill) -> float:
    """What is computed since it came is the same for all, so only what was computed before tells them apart."""
    return prefill.num_left + prefill.came_after / PASSING
