"""A message that the documentation explains is one that a program says, word by word."""

import re

import pytest

from tests.docs.messages import missing_of, pieces_of
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
ELSEWHERE = "## Messages of others"  # RunPod's, the platform's: not in our source


def messages() -> list[str]:
    """The first column of every table, up to what others say; ` / ` separates messages of one cause."""
    ours = PAGE.read_text().partition(ELSEWHERE)[0]
    cells = re.findall(r"^\| (.+?) \| ", ours, re.MULTILINE)
    return [text for cell in cells if cell != "message" for text in re.findall(r"``? ?(.+?) ?``?(?= / |$| \()", cell)]


@pytest.mark.parametrize("message", messages())
def test_message_exists(message: str) -> None:
    assert pieces_of(message)
    assert not missing_of(message)


def test_there_are_messages() -> None:
    assert len(messages()) > 40


def test_other_words_are_missed() -> None:
    """The check can fail."""
    assert missing_of("The target fell asleep.") == ["The target fell asleep"]
    assert not missing_of("The target sent nothing for N s.")
