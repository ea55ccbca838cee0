"""Packages whose `__init__.py` waits until it is needed."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.deferred_package import defer

INIT = """
from .inner import VALUE
from . import heavy
__version__ = "1.2"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`lazy` on the path: a light module, and an `__init__.py` that imports a heavy one."""
    folder = tmp_path / "lazy"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "inner.py").write_text("VALUE = 7")
    (folder / "heavy.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "lazy"
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazy"]:
        del sys.modules[name]


def test_a_module_comes_without_its_package(package: str) -> None:
    """Its `__init__.py` has not run, and what that imports is not there."""
    defer(package)
    assert importlib.import_module("lazy.inner").VALUE == 7
    assert "lazy.heavy" not in sys.modules


@pytest.mark.parametrize("name", ["VALUE", "__version__"])
def test_what_the_package_defines_is_found(package: str, name: str) -> None:
    """The first thing that it lacks runs it, once, around the modules that are there."""
    defer(package)
    inner = importlib.import_module("lazy.inner")
    found = importlib.import_module("lazy")
    assert getattr(found, name) == {"VALUE": 7, "__version__": "1.2"}[name]
    assert found.inner is inner
    assert "lazy.heavy" in sys.modules


def test_a_module_is_found_by_its_name(package: str) -> None:
    """As `from lazy import inner` asks for it, without the rest."""
    defer(package)
    assert importlib.import_module("lazy").inner.VALUE == 7
    assert "lazy.heavy" not in sys.modules


def test_what_is_nowhere_is_an_attribute_error(package: str) -> None:
    """As of any module."""
    defer(package)
    with pytest.raises(AttributeError, match="module 'lazy' has no attribute 'absent'"):
        _ = importlib.import_module("lazy").absent


def test_what_is_imported_or_missing_is_left_alone(package: str) -> None:
    """A package that has run stays as it is; one that is not installed is missed by its import."""
    found = importlib.import_module(package)
    defer(package, "no_such_package")
    assert importlib.import_module(package) is found
    assert "no_such_package" not in sys.modules
