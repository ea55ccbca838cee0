"""The steps one run of a stranger's program has, and what things cost."""

from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any, TypeVar

from jinja2.exceptions import SecurityError

from handler.chat.metering import CHARS_PER_STEP

MAX_STEPS = 10_000_000  # three seconds at worst; Qwen3's template takes 650,000 for 1,000 messages of 1,200 characters

T = TypeVar("T")

CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)


class Budget:
    """The steps one run has left. Values never change in the sandbox, so a weight once taken holds."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self._weights: dict[int, tuple[object, int]] = {}  # by id; holds the value, so that its id stays its own

    def pay(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def pay_for(self, made: T) -> T:
        """The price of making a value from parts that exist."""
        self.pay(1 + len(made) if isinstance(made, CONTAINERS) else self.weigh(made))
        return made

    def weigh(self, value: object) -> int:
        """The price of reading a value to its last part."""
        if isinstance(value, str):
            return 1 + len(value) // CHARS_PER_STEP
        if isinstance(value, int):
            return 1 + value.bit_length() // CHARS_PER_STEP
        if isinstance(value, range):
            return 1 + len(value)
        return self._weigh_parts(value) if isinstance(value, CONTAINERS) else 1

    def weigh_all(self, *values: object, **named: object) -> int:
        return sum(map(self.weigh, (*values, *named.values())))

    def _weigh_parts(self, value: Any) -> int:
        """Adds up, never walks, parts weighed before: `x = [x, x]` makes few objects with astronomically many paths."""
        if (known := self._weights.get(id(value))) is None:
            self.pay(len(value))
            parts = (*value.keys(), *value.values()) if isinstance(value, dict) else value
            known = self._weights[id(value)] = (value, 1 + self.weigh_all(*parts))
        return known[1]
