"""What the tests of several folders share."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tiny_models import Architecture, write_tiny_models

pytest_plugins = ("tests.command_line", "tests.end_to_end.real_models")


@pytest.fixture(scope="session")
def tiny_model_paths(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Architecture, Path]:
    """A model file of each architecture."""
    return write_tiny_models(tmp_path_factory.mktemp("tiny"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the many seeds unless `-m` speaks of them."""
    if "seeds" in str(config.option.markexpr):
        return
    many = [item for item in items if item.get_closest_marker("seeds")]
    config.hook.pytest_deselected(items=many)
    items[:] = [item for item in items if not item.get_closest_marker("seeds")]


def pytest_unconfigure() -> None:
    """llama-cpp-python leaves two files open, and Python would say so after pytest's last line."""
    if utils := sys.modules.get("llama_cpp._utils"):
        utils.outnull_file.close()
        utils.errnull_file.close()
