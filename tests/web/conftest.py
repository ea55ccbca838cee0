"""A browser and a stage for each test that asks for them. Both need playwright, which the other tests here do not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.web.stage import Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator["Stage"]:
    from tests.web.stage import staged  # noqa: PLC0415 - it imports playwright

    async with staged(tmp_path) as stage:
        yield stage


@pytest.fixture
async def browser() -> AsyncIterator["Browser"]:
    from tests.web.stage import CHROMIUM, browsing  # noqa: PLC0415 - it imports playwright

    if not CHROMIUM.exists():
        pytest.skip("needs Debian's Chromium: apt-get install chromium")
    async with browsing() as browser:
        yield browser
