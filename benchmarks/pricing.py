"""What tokens cost on a GPU that is billed by the second: pure arithmetic, and the file of prices.

A worker is billed from its wake-up until it has stopped, in whole seconds: while it starts, while it has requests, and
while it waits for another one before it goes. Input is priced by what prompts alone would take, output by the rest:
together they are the whole bill.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

PRICES = Path(__file__).with_name("gpu_prices.json")
MILLION = 1_000_000


class Gpu(NamedTuple):
    """Prices are in dollars per second of one worker."""

    name: str
    memory_gb: int | None
    flex: float
    active: float | None


class Prices(NamedTuple):
    date: str
    source: str
    gpus: list[Gpu]


class Speed(NamedTuple):
    """What all chats together got, in tokens/s: generated ones, with the prompts' time in it; prompt tokens beside
    them; and prompt tokens while nothing is generated."""

    concurrency: int
    output: float
    input: float
    prompts: float
    spread: float = 0.0  # of `output` over several runs, as a part of their middle
    workers: int = 1  # that shared the load


class Waking(NamedTuple):
    """Seconds of a worker's life: until it can answer, with at least one request, and waiting for another."""

    start: float
    busy: float
    idle: float

    @property
    def billed(self) -> int:
        return math.ceil(self.start + self.busy + self.idle)

    @property
    def cold_share(self) -> float:
        """The part of the bill that a cold start is."""
        return self.start / self.billed

    @property
    def idle_share(self) -> float:
        return self.idle / self.billed


class Cost(NamedTuple):
    """Dollars per million tokens."""

    input: float
    output: float
    blended: float  # over all tokens
    all_on_output: float  # as if input were free


def cost(price: float, speed: Speed, waking: Waking) -> Cost:
    """`price` is in dollars per second of a worker. Raises ValueError where no price can be told from the speeds."""
    if min(speed.output, speed.input, speed.prompts) <= 0:
        raise ValueError("no tokens were measured")
    share = speed.input / speed.prompts  # of the time, that the prompts take
    if share >= 1:
        raise ValueError(
            f"prompts alone ({speed.prompts:.0f} tokens/s) were no faster than beside answers ({speed.input:.0f}): "
            "measure for longer"
        )
    dollars = MILLION * price * speed.workers * waking.billed / waking.busy  # for a million busy seconds
    return Cost(
        dollars / speed.prompts,
        dollars * (1 - share) / speed.output,
        dollars / (speed.input + speed.output),
        dollars / speed.output,
    )


def break_even(gpu: Gpu) -> float | None:
    """The part of the day that a worker must be billed for as flex, until an active one is cheaper."""
    return gpu.active / gpu.flex if gpu.active is not None else None


def read_prices(path: Path = PRICES) -> Prices:
    data = json.loads(path.read_text())
    return Prices(data["date"], data["source"], [Gpu(**gpu) for gpu in data["gpus"]])


def price_of(text: str) -> float:
    """Dollars per second of "1.22" (an hour), "1.22/h" or "0.00034/s". Raises ValueError."""
    number, _, unit = text.partition("/")
    if unit not in ("", "h", "s"):
        raise ValueError(f"{text!r} is neither dollars an hour nor, with /s, a second")
    price = float(number) / (1 if unit == "s" else 3600)
    if not 0 < price < math.inf:
        raise ValueError(f"{text!r} is no price")
    return price
