"""Text is shown as early as it can be, and never what must not be seen."""

import random

import pytest

from handler.engine.detokenizer import Detokenizer

EMOJI = "🙂".encode()


def feed_all(pieces: list[bytes], *stop: str) -> list[str]:
    """What each piece shows, and at last what the end of the sequence does."""
    detokenizer = Detokenizer(stop)
    shown = []
    for piece in pieces:
        shown.append(detokenizer.feed(piece))
        if detokenizer.stopped:
            break
    return [*shown, detokenizer.finish()]


def split(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def test_character_of_four_tokens_is_shown_once_and_whole() -> None:
    """A character appears with its last byte."""
    assert feed_all(split(EMOJI)) == ["", "", "", "🙂", ""]


def test_cut_off_character_is_dropped() -> None:
    """An answer that ends within a character shows nothing of it."""
    assert feed_all([b"hi ", EMOJI[:3]]) == ["hi ", "", ""]


def test_invalid_bytes_are_replaced() -> None:
    """Bytes that can be no character become U+FFFD, and the text continues."""
    assert "".join(feed_all([b"a\xff", b"b\xc3", b"c"])) == "a\ufffdb\ufffdc"


def test_text_without_stop_is_not_held_back() -> None:
    """Each piece is shown at once."""
    assert feed_all([b"one ", b"two"]) == ["one ", "two", ""]


def test_only_a_beginning_of_the_stop_is_held_back() -> None:
    """No more is held back than may become the stop string, and it is shown when it does not."""
    assert feed_all([b"xab", b"z"], "abc") == ["x", "abz", ""]


def test_stop_over_token_borders_is_never_shown() -> None:
    """Neither the stop string nor what follows it leaks, wherever its tokens are cut."""
    assert feed_all([b"answer EN", b"D", b"more"], "END") == ["answer ", "", ""]
    assert feed_all([b"answer ENDmore"], "END") == ["answer ", ""]


def test_end_releases_what_was_held_back() -> None:
    """A beginning of a stop string that stays a beginning is text."""
    assert feed_all([b"hi E", b"N"], "END") == ["hi ", "", "EN"]


def test_stop_that_begins_again_within_itself() -> None:
    """A failed beginning may hold the real one."""
    assert feed_all(split(b"xaab"), "ab") == ["x", "", "a", "", ""]


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one two three", ("three", "two"), "one "),
        ("xabcd", ("abcd", "bc"), "xa"),  # complete before the other
        ("xabc", ("bc", "abc"), "x"),  # complete at once: the longer
        ("a🙂b", ("🙂",), "a"),
    ],
)
@pytest.mark.parametrize("in_bytes", [False, True])
def test_first_complete_stop_wins(text: str, stops: tuple[str, ...], shown: str, in_bytes: bool) -> None:
    """Of several stop strings the first to be complete ends the text, however the tokens are cut."""
    pieces = split(text.encode()) if in_bytes else [text.encode()]
    assert "".join(feed_all(pieces, *stops)) == shown


def test_counts_characters() -> None:
    """Shown characters and held ones are counted apart."""
    detokenizer = Detokenizer(("abc",))
    detokenizer.feed("éab".encode())
    assert (detokenizer.num_shown, detokenizer.num_decoded) == (1, 3)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_do_not_matter(seed: int) -> None:
    """Any cut of the bytes gives the text that all of them at once give, and stops at the same place."""
    rng = random.Random(seed)
    for _ in range(50):
        text = "".join(rng.choices("abc🙂é", k=30))
        stops = tuple("".join(rng.choices("abcé", k=rng.randint(2, 4))) for _ in range(rng.randint(0, 3)))
        data = text.encode() + rng.choice([b"", b"\xff", EMOJI[:2]])
        cuts = sorted(rng.choices(range(len(data) + 1), k=rng.randint(0, 20)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert "".join(feed_all(pieces, *stops)) == "".join(feed_all([data], *stops))
        assert "".join(feed_all(split(data), *stops)) == "".join(feed_all([data], *stops))
