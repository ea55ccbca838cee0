"""How many prompt tokens are computed at once beside running sequences, from the steps' measured times. Pure code.

A step with a part beside it takes longer than a quiet one, by about as much for few sequences as for many. So the size
follows from the quiet steps' time, from the goal (the longest step there should be, as a multiple of a quiet one), and
from how many tokens a second of longer steps is worth, which is learned: where more than a tenth of the steps miss the
goal, parts shrink, else they grow.
"""

LEAST = 48  # tokens: smaller parts take hardly less time
STEP = 16  # tokens: few sizes, because llama.cpp prepares a graph for each anew
DEFAULT = 128  # tokens, until a quiet step was seen
# Tokens for each second that steps are longer, where learning begins: of a 7B on an H200.
RATE, RATE_16BIT = 12_000.0, 30_000.0
MAY_MISS = 0.1  # of the steps
LEARNING = 0.02  # by how much of itself an estimate moves with each step
FRESH = 256  # steps: as long as a quiet step's time holds


class Quantile:
    """An estimate of a quantile of positive numbers that follows them as they change (stochastic approximation)."""

    def __init__(self, share: float, value: float | None = None) -> None:
        """`share`: of the numbers that are below it."""
        self.value = value
        self._share = share

    def note(self, number: float) -> None:
        if self.value is None:
            self.value = number
        else:
            self.value *= 1 + LEARNING * (self._share - (number < self.value))


class FixedPartSize:
    """A number that was set."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens

    def begin(self, *, is_16bit: bool) -> None:
        """It is set for all weights."""

    def tokens(self, num_rows: int) -> int:
        return self._num_tokens

    def wants_quiet(self, num_rows: int) -> bool:
        return False

    def note(self, num_rows: int, seconds: float, *, is_quiet: bool) -> None:
        """Nothing is learned."""


class PartSize:
    """Engine thread only. Times are seconds; `num_rows` are the tokens of a step in which nothing but answers grow."""

    def __init__(self, goal: float, most: int) -> None:
        """`goal`: of a step beside a part, in quiet steps; above 1. `most`: tokens of a part."""
        self._goal = goal
        self._most = most
        self._quiet: dict[int, Quantile] = {}  # by the number of rows
        self._age: dict[int, int] = {}  # steps of so many rows since one was quiet
        self._rate = RATE

    def begin(self, *, is_16bit: bool) -> None:
        """Learn anew what parts cost, on 16-bit weights or those of a quantised file."""
        self._rate = RATE_16BIT if is_16bit else RATE

    def tokens(self, num_rows: int) -> int:
        """Of the next part beside steps of so many rows."""
        quiet = self._quiet_seconds(num_rows)
        size = DEFAULT if quiet is None else round(self._rate * (self._goal - 1) * quiet / STEP) * STEP
        return max(min(LEAST, self._most), min(self._most, size))

    def wants_quiet(self, num_rows: int) -> bool:
        """Whether a step of so many rows should be left alone: under a steady load none would be quiet, and what fewer
        rows once took would decide how large parts are, for ever."""
        return self._age.get(num_rows, FRESH) >= FRESH

    def note(self, num_rows: int, seconds: float, *, is_quiet: bool) -> None:
        """A step's time, with or without parts beside it."""
        self._age[num_rows] = 0 if is_quiet else self._age.get(num_rows, FRESH) + 1
        if is_quiet:
            self._quiet.setdefault(num_rows, Quantile(0.5)).note(seconds)
        elif (quiet := self._quiet_seconds(num_rows)) is not None:
            misses = seconds > self._goal * quiet
            is_least, is_most = self.tokens(num_rows) <= LEAST, self.tokens(num_rows) >= self._most
            if not (is_least if misses else is_most):  # a size at its bound tells nothing about the rate
                self._rate *= 1 + LEARNING * (MAY_MISS - misses)

    def _quiet_seconds(self, num_rows: int) -> float | None:
        """Of the nearest number of rows that was seen without a part beside it."""
        nearest = min(self._quiet, key=lambda seen: abs(seen - num_rows), default=None)
        return None if nearest is None else self._quiet[nearest].value
