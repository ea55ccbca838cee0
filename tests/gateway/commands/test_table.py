"""Tables for people: aligned whatever script a name is written in, folded where a terminal is narrow."""

import io

import pytest

from local_gateway.commands.table import Listing, fitted, fold, width_of


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned() -> None:
    """Numbers at their end; wide characters count for two."""
    out = io.StringIO()
    Listing(("name", "tokens"), [("ann", "9"), ("東京", "1,234")], frozenset({"tokens"})).print_table(out)

    assert out.getvalue().splitlines() == [
        "",
        "  name   tokens",
        "  ────   ──────",
        "  ann         9",
        "  東京    1,234",
        "",
    ]


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines fit, and no word is lost. In a file each row is one line."""
    monkeypatch.setenv("COLUMNS", "40")
    detail = "it does not accept the gateway's key, and so it is left alone for a minute"
    screen, file = Screen(), io.StringIO()
    for out in (screen, file):
        Listing(("state", "detail"), [("bad", detail)]).print_table(out)

    rows = screen.getvalue().splitlines()[3:]
    assert max(map(width_of, rows)) <= 40
    assert " ".join(rows).split() == ["bad", *detail.split()]
    assert file.getvalue().splitlines()[3] == f"  bad     {detail}"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two three", 20, ["one two three"]),
        ("one two three", 8, ["one two", "three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("東京都", 4, ["東京", "都"]),
    ],
)
def test_fold(text: str, width: int, lines: list[str]) -> None:
    assert list(fold(text, width)) == lines


def test_the_widest_column_gives_way() -> None:
    assert fitted([4, 40, 12], 30) == [4, 14, 12]
    assert fitted([10, 10], 4) == [8, 8]
