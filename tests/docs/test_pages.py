"""Every command in the documentation says whether it is run, and every gateway.yaml in it can be read."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from local_gateway.config.load import load
from local_gateway.config.settings import GatewaySettings
from tests.docs.pages import MUST_BE_MARKED, ROOT, VERBS, Fence, Mark, PageError, fences_of, pages

FENCES = [fence for page in pages() for fence in fences_of(page)]
VARIABLE = re.compile(r"\$\{(\w+)")


def config_of(fence: Fence, folder: Path) -> GatewaySettings:
    """As the gateway reads it, with every variable that it names set."""
    path = folder / "gateway.yaml"
    path.write_text(fence.text)
    return load(path, {"HOME": str(folder), **dict.fromkeys(VARIABLE.findall(fence.text), "value-of-variable")})


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.place)
def test_is_marked(fence: Fence) -> None:
    """A block has a language; one that could be run says whether it is, and why not."""
    assert fence.language, f"{fence.place}: name the block's language; `text` if it has none"
    if fence.language in MUST_BE_MARKED:
        assert fence.mark, f"{fence.place}: mark it, as tests/docs/pages.py says"
    if fence.mark and (languages := VERBS[fence.mark.verb]):
        assert fence.language in languages, fence.place


@pytest.mark.parametrize(
    "fence", [fence for fence in FENCES if fence.mark and fence.mark.verb == "config"], ids=lambda fence: fence.place
)
def test_configuration_is_read(fence: Fence, tmp_path: Path) -> None:
    assert config_of(fence, tmp_path).models


def test_output_follows_a_command() -> None:
    """Else there is nothing to compare it with."""
    for before, fence in pairwise(FENCES):
        if fence.mark and fence.mark.verb == "output":
            assert before.page == fence.page
            assert before.mark
            assert before.mark.verb == "run", fence.place


def test_readme_is_short() -> None:
    """What the project is, and a first result, before anything else."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_readme_shows_it() -> None:
    """The dashboard in both schemes, and a terminal that fetches nothing."""
    text = (ROOT / "README.md").read_text()
    pictures = re.findall(r'(?:src|srcset)="(docs/images/[^"]+)"', text)
    terminal = (ROOT / "docs/images/terminal.svg").read_text()

    assert {"docs/images/now-desktop-dark.png", "docs/images/now-desktop-light.png"} < set(pictures)
    assert all((ROOT / picture).stat().st_size < 250_000 for picture in pictures)
    assert "@font-face" not in terminal
    assert "url(http" not in terminal


def page(folder: Path, text: str) -> list[Fence]:
    path = folder / "page.md"
    path.write_text(text)
    return fences_of(path)


def test_block_in_a_list(tmp_path: Path) -> None:
    """Its indentation is the list's."""
    (fence,) = page(tmp_path, "- so:\n\n  <!-- run -->\n  ```sh\n  if true; then\n    true\n  fi\n  ```\n")

    assert (fence.line, fence.language, fence.mark) == (4, "sh", Mark("run"))
    assert fence.text == "if true; then\n  true\nfi\n"


def test_options(tmp_path: Path) -> None:
    (fence,) = page(tmp_path, '<!-- run typed="two words" prints="x" -->\n```sh\ncat\n```\n')

    assert fence.mark == Mark("run", options={"typed": "two words", "prints": "x"})


def test_server_without_a_block(tmp_path: Path) -> None:
    (fence,) = page(tmp_path, "<!-- serve: make run -->\n\nText.\n")

    assert (fence.text, fence.mark) == ("make run\n", Mark("serve", reason="make run"))


@pytest.mark.parametrize(
    "text",
    [
        "<!-- run -->\n\n```sh\nls\n```\n",
        "<!-- skip -->\n```sh\nls\n```\n",
        "<!-- skip: -->\n```sh\nls\n```\n",
        "<!-- run: why -->\n```sh\nls\n```\n",
        "<!-- run times=2 -->\n```sh\nls\n```\n",
        "<!-- run quickly -->\n```sh\nls\n```\n",
        "```sh\nls\n",
    ],
)
def test_mistakes(tmp_path: Path, text: str) -> None:
    """A mark that marks nothing would leave a block out without a word."""
    with pytest.raises(PageError):
        page(tmp_path, text)
