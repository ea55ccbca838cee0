"""Models for the stories, and a stage that many of them share."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handler.models.locate import locate
from handler.settings import Settings
from tests.contract.stage import Model, Stage, stage
from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Speaks noise, quickly."""
    folder = tmp_path_factory.mktemp("model")
    return Model(write_tiny_model(folder / "tiny.gguf", "llama", context_length=4096), folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Speaks English; `make test` has fetched it."""
    return Model(locate(Settings.from_env({})), tmp_path_factory.mktemp("home"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(model: Model) -> AsyncIterator[Stage]:
    """One worker for all stories of a file that leave it as they found it."""
    async with stage(model) as shared:
        await shared.worker()
        yield shared
