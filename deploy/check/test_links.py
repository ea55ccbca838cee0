"""The documentation's links lead to files and headings that are there. Addresses elsewhere are not asked."""

from tools import ROOT, output_of


def test_links() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]

    output_of("lychee", "--offline", "--include-fragments", "--no-progress", *pages)
