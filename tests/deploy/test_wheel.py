"""The package as it is built: which files are in it, and what it asks for."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("local_gateway", "handler")
NOT_PACKAGED = ("libdraw.so",)  # compiled where it is used


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="needs hatchling: it is among the dev requirements")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_files_are_those_of_the_packages(wheel: zipfile.ZipFile) -> None:
    """All of them, and nothing else: no test, no environment, nothing that was compiled here."""
    here = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in NOT_PACKAGED
    }
    packaged = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert packaged == here
    assert {"local_gateway/py.typed", "handler/py.typed", "local_gateway/web/static/index.html"} <= packaged


def test_licences_go_along(wheel: zipfile.ZipFile) -> None:
    """Ours, and those of what the dashboard has from others."""
    licences = [name for name in wheel.namelist() if ".dist-info/licenses/" in name]

    assert len(licences) == 1 + len(list((ROOT / "local_gateway/web/static/vendor").glob("*.LICENSE")))


def test_gateway_needs_nothing_that_is_compiled(wheel: zipfile.ZipFile) -> None:
    """llama-cpp-python has no wheels; only the worker's extra asks for it."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    requirements = metadata.get_all("Requires-Dist") or []
    base = {re.split(r"[^\w-]", one)[0] for one in requirements if "extra ==" not in one}

    assert base == {"pydantic", "starlette", "uvicorn"}
    assert set(metadata.get_all("Provides-Extra") or []) == {"chat", "gateway", "otel", "postgres", "worker"}
    assert [one for one in requirements if "llama-cpp-python" in one and "extra == 'worker'" not in one] == []


def test_command(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]

    assert "llama-gateway = local_gateway.__main__:run" in wheel.read(name).decode()
