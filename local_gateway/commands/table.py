"""Tables that commands print: for people, or as CSV."""

import csv
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


class Listing(NamedTuple):
    """Rows of text under the names of their columns; those in `numeric` are flush right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()

    def print_table(self, out: TextIO) -> None:
        console = Console(file=out)
        table = Table(box=SIMPLE_HEAD)
        for column in self.columns:
            table.add_column(column, justify="right" if column in self.numeric else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(_printable(cell)) for cell in row))
        if not console.is_terminal:
            console.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.print(table)

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
