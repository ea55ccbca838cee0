"""The fenced blocks of a page, each with the mark above it that says whether it is run.

A mark is an HTML comment, which GitHub does not show:

    <!-- run -->                            sh, python, js: it is run, and must succeed
    <!-- run typed="Hello" prints="Hi" -->  with this text on its standard input; the text that must be printed
    <!-- run with="llm==0.32.1" -->         after this was installed, by pip or for js by npm, into a folder of its own
    <!-- serve -->                          sh: a gateway for the blocks below, until the page ends
    <!-- serve: COMMAND -->                 the same, where the page has no block for it
    <!-- config -->                         yaml: a gateway.yaml, which the gateway's own reader accepts
    <!-- config file="gateway.yaml" -->     the same, kept in the page's folder under this name
    <!-- output -->                         text: what the block before printed; `...` stands for anything
    <!-- skip: REASON -->                   it is not run, and why
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERBS = {"run": ("sh", "python", "js"), "serve": ("sh",), "config": ("yaml",), "output": ("text",), "skip": ()}
OPTIONS = ("typed", "prints", "with", "file")
MUST_BE_MARKED = ("sh", "python", "yaml", "js")

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^`]*)")
_MARK = re.compile(r" *<!-- (?P<verb>run|serve|config|output|skip)\b(?P<colon>:?) *(?P<rest>.*?) *-->")


class PageError(Exception):
    """A page is not written as its reader, the runner, expects. The message has place and reason."""


@dataclass(frozen=True)
class Mark:
    """What is to be done with a block. `reason` is that of a skip, or the command of a `serve` without a block."""

    verb: str
    reason: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fence:
    """A fenced block, without the indentation that a list gives it. `line` is that of its opening fence."""

    page: str
    line: int
    language: str
    text: str
    mark: Mark | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """All pages whose commands people copy."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fences_of(path: Path) -> list[Fence]:
    """In the page's order; a `serve` without a block is one too. Raises PageError."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return list(_fences(name, path.read_text().splitlines()))


def _fences(page: str, lines: list[str]) -> Iterator[Fence]:
    mark, position = None, 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if found := _MARK.fullmatch(line):
            mark = _mark_of(found, f"{page}:{position}")
            if mark.verb == "serve" and mark.reason:
                yield Fence(page, position, "sh", f"{mark.reason}\n", mark)
                mark = None
            continue
        opening = _FENCE.fullmatch(line)
        if opening is None:
            if mark is not None:
                raise PageError(f"{page}:{position - 1}: no block follows this mark")
            continue
        start, indent = position, len(opening["indent"])
        while position < len(lines) and lines[position].strip() != opening["ticks"]:
            position += 1
        if position == len(lines):
            raise PageError(f"{page}:{start}: this block does not end")
        text = "".join(
            f"{inner[indent:] if not inner[:indent].strip() else inner}\n" for inner in lines[start:position]
        )
        position += 1
        yield Fence(page, start, opening["language"].strip(), text, mark)
        mark = None


def _mark_of(found: re.Match[str], place: str) -> Mark:
    verb, has_reason, rest = found["verb"], bool(found["colon"]), found["rest"]
    if has_reason:
        if verb not in ("skip", "serve") or not rest:
            raise PageError(f"{place}: `{verb}` takes no reason, or its reason is missing")
        return Mark(verb, reason=rest)
    pairs = [word.partition("=") for word in shlex.split(rest)]
    options = {name: value for name, _, value in pairs}
    if verb == "skip" or not set(options) <= set(OPTIONS) or not all(separator for _, separator, _ in pairs):
        raise PageError(f"{place}: {found[0].strip()} is no mark")
    return Mark(verb, options=options)
