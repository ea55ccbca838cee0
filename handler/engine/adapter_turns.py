"""Which adapter the next step serves. llama.cpp applies one to all of a batch, so sequences with different ones take
turns.

A change costs llama.cpp the graph that it would have reused, and some milliseconds to reserve another: so a turn is
several steps long, as long as there is something to compute in it. Pure code.
"""

from collections.abc import Set as AbstractSet

TURN_STEPS = 16

Adapter = str | None  # its name; None: the model as it is


class AdapterTurns:
    """Whose turn it is: the least recently served one's that has work. Engine thread only."""

    def __init__(self) -> None:
        self._current: Adapter = None
        self._num_steps = 0  # of the current turn
        self._last_step: dict[Adapter, int] = {}  # of each adapter, by the clock
        self._clock = 0

    def choose(self, wanted: AbstractSet[Adapter]) -> Adapter:
        """Of the adapters that have something to compute, the one to serve now; the current one where there is none."""
        others = wanted - {self._current}
        if others and (self._current not in wanted or self._num_steps >= TURN_STEPS):
            # By name where two were never served, so that equal traffic takes equal turns.
            self._current = min(others, key=lambda adapter: (self._last_step.get(adapter, 0), adapter or ""))
            self._num_steps = 0
        return self._current

    def note_step(self) -> None:
        """A step of the adapter that was chosen last."""
        self._num_steps += 1
        self._clock += 1
        self._last_step[self._current] = self._clock
