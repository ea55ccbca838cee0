"""The texts in the source, with holes where a value is put in; and whether a quoted message is one of them.

A message may be put together from several texts, so each piece of a quoted one between its holes is looked for alone.
"""

import ast
import re
from functools import cache
from pathlib import Path

from tests.docs.pages import ROOT

PROGRAMS = ("handler", "local_gateway")
HOLE = "\0"
MIN_FAST = 12  # characters besides the values
MAX_VALUE = ".{1,40}?"
# What stands for a value in a quoted message: dots, or a word in capitals that is no abbreviation of the message's own.
_HOLES = re.compile(r"\.\.\.|…|\b(?:N|M|NAME|TEXT|KEY|PATH|HOST|NUMBER|VALUE)\b")
_SPACE = re.compile(r"\s+")


@cache
def texts() -> tuple[str, ...]:
    """Every text of both programs that a message could be made of, with a HOLE for each value in it."""
    found: list[str] = []
    for path in sorted(path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")):
        found += texts_of(path)
    scripts = [*(ROOT / "builder").glob("*.sh"), ROOT / "compose.yaml"]
    return (*found, *(_SPACE.sub(" ", path.read_text()) for path in scripts))


def texts_of(path: Path) -> list[str]:
    """Of one file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
            found.append(_SPACE.sub(" ", "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(_SPACE.sub(" ", node.value))
    return found


def pieces_of(message: str) -> list[str]:
    """What of a quoted message stands fast."""
    return [piece for part in _HOLES.split(message) if len(piece := part.strip(" :'`.,")) > 1]


def missing_of(message: str) -> list[str]:
    """The pieces that no text of the source says."""
    return [piece for piece in pieces_of(message) if not is_said(piece)]


def is_said(piece: str) -> bool:
    """Within one text of the source; or by a text with values in it, and others before and after."""
    piece = piece.strip(" :'`.,")
    if len(piece) < 2 or any(piece in text for text in texts()):
        return True
    found = (pattern.search(piece) for pattern in patterns())
    return any(is_said(piece[: match.start()]) and is_said(piece[match.end() :]) for match in found if match)


@cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """Of the texts with values, unless there is little else in them."""
    holed = {text for each in texts() if HOLE in (text := re.sub("%[sdrg]", HOLE, each))}
    fast = (text.strip(HOLE + " :'`.,(") for text in holed if len(text.replace(HOLE, "").strip()) >= MIN_FAST)
    parts = ([re.escape(part) for part in text.split(HOLE)] for text in fast)
    return tuple(re.compile(MAX_VALUE.join(part)) for part in parts)
