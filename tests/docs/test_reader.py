"""The reader of a page says when a block does not do what its page says."""

from pathlib import Path

import pytest

from tests.docs.pages import fences_of
from tests.docs.reader import BlockError, Reader


def follow(folder: Path, text: str) -> None:
    """All blocks of a page, in a folder without the repository."""
    page = folder / "page.md"
    page.write_text(text)
    (folder / "reader").mkdir()
    with Reader(folder / "reader") as reader:
        for fence in fences_of(page):
            reader.follow(fence)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- run -->\n```sh\ntouch here\n```\n\n<!-- run -->\n```sh\ntest -f here\n```\n",
        "<!-- run -->\n```python\nimport sys\n\nassert not sys.stdin.read()\n```\n",
        '<!-- run typed="Paris" prints="Paris" -->\n```sh\ncat\n```\n',
        "<!-- run -->\n```sh\necho took 12 s in all\n```\n\n<!-- output -->\n```text\ntook ... s in all\n```\n",
        '<!-- run -->\n```sh\ntest "$HOME" != ~root -a -z "${OPENAI_API_KEY-}"\n```\n',
        "<!-- skip: fails -->\n```sh\nfalse\n```\n",
    ],
    ids=["one folder", "python", "typed", "output", "home", "skip"],
)
def test_page_that_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")

    follow(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<!-- run -->\n```sh\nfalse\necho on\n```\n", "exit status 1"),
        ("<!-- run -->\n```sh\nfalse | true\n```\n", "exit status 1"),
        ("<!-- run -->\n```python\nraise SystemExit(3)\n```\n", "exit status 3"),
        ('<!-- run prints="Paris" -->\n```sh\necho London\n```\n', "'Paris' was not printed"),
        ("<!-- run -->\n```sh\necho one\n```\n\n<!-- output -->\n```text\ntwo\n```\n", "printed was"),
        ("<!-- serve -->\n```sh\necho no gateway\n```\n", "the server does not answer"),
    ],
    ids=["first command", "pipe", "python", "prints", "output", "serve"],
)
def test_page_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BlockError, match=reason):
        follow(tmp_path, text)
