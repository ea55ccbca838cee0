"""Tables that commands print: for people, or as CSV.

Written here and not by a library: rich, with what it needs, is an eighth of everything that the gateway installs.
"""

import csv
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width
GAP = "   "
MIN_WIDTH = 8  # of a column that is folded to fit a terminal


class Listing(NamedTuple):
    """Rows of text under the names of their columns; those in `numeric` are flush right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()

    def print_table(self, out: TextIO) -> None:
        """Cells are folded where a terminal is too narrow; elsewhere each row is one line."""
        rows = [[_printable(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
        if out.isatty():
            widths = fitted(widths, shutil.get_terminal_size().columns - len(GAP) * len(widths))
        header, *others = ["".join(self._lines(row, widths)) for row in rows]
        rule = GAP.join("\u2500" * width for width in widths)
        out.write(f"\n{header}  {rule}\n{''.join(others)}\n")

    def _lines(self, row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        """A row: as many lines as its longest cell is folded into."""
        folded = [list(fold(cell, width)) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, folded))):
            parts = [lines[number] if number < len(lines) else "" for lines in folded]
            cells = zip(self.columns, parts, widths, strict=True)
            padded = (
                padding + part if name in self.numeric else part + padding
                for name, part, width in cells
                for padding in [" " * (width - width_of(part))]
            )
            yield f"  {GAP.join(padded)}".rstrip() + "\n"

    def write_csv(self, out: TextIO) -> None:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([self._safe(row) for row in self.rows])

    def _safe(self, row: Sequence[str]) -> list[str]:
        """Clients name models, and spreadsheets run text that begins like a formula."""
        cells = zip(self.columns, row, strict=True)
        return [
            "'" + cell if name not in self.numeric and cell.startswith(FORMULA_STARTS) else cell for name, cell in cells
        ]


def _printable(cell: str) -> str:
    """No name may steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in cell)


def width_of(text: str) -> int:
    """Cells of a terminal that it takes: two for what East Asian scripts write wide, none for combining marks."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def fitted(widths: Sequence[int], room: int) -> list[int]:
    """Widths whose sum is at most `room`: the widest give way first, none below MIN_WIDTH."""
    fit = list(widths)
    while sum(fit) > room and max(fit) > MIN_WIDTH:
        fit[fit.index(max(fit))] -= 1
    return fit


def fold(text: str, width: int) -> Iterator[str]:
    """Its lines of at most `width` cells, between words where that can be. At least one."""
    while width_of(text) > width:
        end = taken = 0
        while end < len(text) and taken + _width(text[end]) <= width:
            taken += _width(text[end])
            end += 1
        end = max(end, 1)
        space = text.rfind(" ", 1, end + 1)
        cut = space if space > 0 else end
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    yield text
