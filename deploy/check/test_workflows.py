"""GitHub's files: workflows, Dependabot, issue forms."""

import re

import pytest
from tools import ROOT, output_of

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_actionlint() -> None:
    output_of("actionlint", "-no-color", *WORKFLOWS)


def test_zizmor() -> None:
    """As an attacker reads them: injections, rights, credentials, what is not pinned."""
    output_of("zizmor", "--offline", "--no-progress", ".github")


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", "workflows/*.yml"),
        ("vendor.dependabot", "dependabot.yml"),
        ("vendor.github-issue-forms", "ISSUE_TEMPLATE/[bf]*.yml"),
    ],
)
def test_schemas(schema: str, pattern: str) -> None:
    output_of("check-jsonschema", "--builtin-schema", schema, *sorted((ROOT / ".github").glob(pattern)))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path: object) -> None:
    """By commit, with the version beside it, that Dependabot keeps up to date."""
    text = (ROOT / str(path)).read_text()

    for line in re.findall(r"uses: .*", text):
        assert re.fullmatch(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert "permissions: {}" in text
    assert text.count("timeout-minutes") == text.count("runs-on")
