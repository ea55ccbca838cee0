"""A browser and a stage for each test."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: it is among the dev requirements")

from tests.web.stage import CHROMIUM, Stage, browsing, staged  # noqa: E402 - it imports playwright


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM.exists():
        return
    here = Path(__file__).parent
    skip = pytest.mark.skip(reason="needs Debian's Chromium: apt-get install chromium")
    for item in items:
        if item.path.is_relative_to(here) and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(skip)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with browsing() as browser:
        yield browser
