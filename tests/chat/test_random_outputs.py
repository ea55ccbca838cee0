"""Whatever a model writes: no exception, nothing taken back, and the same message in any cut.

A few hundred texts a shape by default; `pytest -m seeds` tries more than 10,000 a shape.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from handler.chat.formats import FORMATS
from handler.chat.formats.format import Format
from handler.chat.output import OutputParser
from handler.chat.reasoning import ReasoningState
from handler.chat.tools import Tools
from tests.chat.transcripts import TOOLS, calling, fold, saying, thinking

FEW, MANY = 60, 2_500  # for each family: the least used shape has four
CHARACTERS = "ab1 \n\t\"'\\{}[]()<>/|=,:;.-_éß中👩‍🚀\ue000\x00"
WORDS = (
    "true",
    "None",
    '"a"',
    "{}",
    "[1]",
    "get_weather",
    "city",
    "functions.",
    "to=",
    "```json",
    "```",
    "\\u00e9",
    "\\x",
)
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": 'Z"ü', "days": 3, "options": {"a": [1]}}),
    ("write_file", {"text": "</x>\n"}),
    ("get_time", {}),
]

families = pytest.mark.parametrize("format", [pytest.param(format, id=name) for name, format in FORMATS.items()])


def texts(format: Format, count: int) -> Iterator[tuple[str, random.Random]]:
    """Half of them markers, words and characters in any order, half of them answers with damage."""
    chance = random.Random(format.name)
    for number in range(count):
        yield (_soup(format, chance) if number % 2 else _damaged(format, chance)), chance


def _soup(format: Format, chance: random.Random) -> str:
    parts = (*sorted(format.markers), *format.bare)
    pools = (parts, parts, WORDS, CHARACTERS)
    return "".join(chance.choice(chance.choice(pools) or WORDS) for _ in range(chance.randrange(40)))


def _damaged(format: Format, chance: random.Random) -> str:
    text = calling(format, *chance.choices(CALLS, k=chance.randrange(3)))
    text = chance.choice(("", thinking(format, "Hm. "), saying(format, "Well, "))) + text
    for _ in range(chance.randrange(4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 2, 8)))
        text = text[:start] + chance.choice(("", chance.choice(CHARACTERS), chance.choice(WORDS))) + text[end:]
    return text


def check(format: Format, count: int) -> None:
    for text, chance in texts(format, count):
        starts_in = chance.choice(list(ReasoningState))
        tools = Tools(chance.choice((TOOLS, [])))
        whole = OutputParser(format, starts_in, tools=tools)
        expected = fold([*whole.feed(text), *whole.finish()])
        assert len(expected.calls) <= 128

        cut = OutputParser(format, starts_in, tools=tools)
        events, at = [], 0
        while at < len(text):
            size = chance.choice((1, 1, 2, 3, 7, 50))
            events += cut.feed(text[at : at + size])
            at += size
        assert fold([*events, *cut.finish()]) == expected, repr(text)


@families
def test_random_texts(format: Format) -> None:
    """Events are only ever added: `fold` says where their order is wrong."""
    check(format, FEW)


@pytest.mark.seeds
@families
def test_many_random_texts(format: Format) -> None:
    """The same with more of them."""
    check(format, MANY)
