"""A model that is loaded while it is downloaded: from a server on this machine that keeps bytes back."""

import os
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest

from handler import weights
from handler.engine.llama.model import LlamaModel
from handler.errors import ModelError, NetworkError
from handler.models import downloads
from handler.models.arrival import Arrival
from handler.models.gguf import data_start
from handler.models.storage import Digest
from handler.settings import Settings
from handler.weights import Weights, load_weights
from tests.models.model_server import ModelServer, Served, serving
from tests.tiny_models import Architecture

URL_PATH = "/model.gguf"
REPO = "someone/tiny-GGUF"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 1000)


@pytest.fixture
def content(tiny_model_paths: Mapping[Architecture, Path]) -> bytes:
    return tiny_model_paths["llama"].read_bytes()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where each load took its bytes from."""
    made: list[str] = []

    class Recording(LlamaModel):
        def __init__(self, *args: object, source: object = None) -> None:
            made.append("arrival" if isinstance(source, Arrival) else "file")
            super().__init__(*args, source=source)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(weights, "LlamaModel", Recording)
    return made


def settings(model: str, here: Path, server: ModelServer, **environ: str) -> Settings:
    places = {"MODELS_DIR": str(here / "models"), "VOLUME_DIR": str(here / "volume"), "HF_ENDPOINT": server.url}
    return Settings.from_env({"MODEL": model, **places, **environ})


def load(server: ModelServer, here: Path, served: Served, **environ: str) -> Weights:
    server.files[URL_PATH] = served
    return load_weights(settings(f"{server.url}{URL_PATH}", here, server, **environ))


def has_all_of(loaded: Weights, content: bytes) -> bool:
    loaded.model.close()
    return loaded.path.read_bytes() == content


class Loader(NamedTuple):
    """`asked` is set when llama.cpp asks for a tensor; `num_arrived` is how many bytes were there then."""

    asked: Event
    num_arrived: list[int]


@pytest.fixture
def loader(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader, start, read_into = Loader(Event(), []), data_start(content), Arrival.read_into

    def noting(self: Arrival, address: int, position: int, num_bytes: int) -> int:
        if position >= (start or 0):
            loader.num_arrived.append(self._num_arrived)
            loader.asked.set()
        return read_into(self, address, position, num_bytes)

    monkeypatch.setattr(Arrival, "read_into", noting)
    return loader


def test_the_load_begins_before_the_last_byte(
    server: ModelServer, tmp_path: Path, content: bytes, loads: list[str], loader: Loader
) -> None:
    """The server keeps back a quarter until the loader has asked for a tensor."""
    loaded = load(server, tmp_path, Served(content, gate=loader.asked, num_before_gate=len(content) * 3 // 4))

    assert loader.num_arrived[0] < len(content)
    assert loads == ["arrival"]
    assert has_all_of(loaded, content)
    assert os.listdir(tmp_path / "models" / ".checked")  # so the next start does not try it


def test_a_broken_connection_is_resumed(server: ModelServer, tmp_path: Path, content: bytes, loads: list[str]) -> None:
    """The loader sees nothing of it."""
    loaded = load(server, tmp_path, Served(content, breaks=[len(content) // 2]))
    assert loads == ["arrival"]
    assert has_all_of(loaded, content)


def test_a_partial_file_is_resumed(server: ModelServer, tmp_path: Path, content: bytes, loads: list[str]) -> None:
    """As a process left it that was killed."""
    url = f"{server.url}{URL_PATH}"
    folder = tmp_path / "models" / "urls" / sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    (folder / "model.gguf.part").write_bytes(content[:5000])
    (folder / "model.gguf.part.etag").write_text('"v1"')
    loaded = load(server, tmp_path, Served(content))
    assert server.seen[0].headers["Range"] == "bytes=5000-"
    assert loads == ["arrival"]
    assert has_all_of(loaded, content)


def test_a_server_without_a_length(server: ModelServer, tmp_path: Path, content: bytes, loads: list[str]) -> None:
    """The model is loaded when it is there."""
    loaded = load(server, tmp_path, Served(content, tells_length=False))
    assert loads == ["file"]
    assert has_all_of(loaded, content)


def test_a_file_that_changes_midway(
    server: ModelServer, tmp_path: Path, content: bytes, loads: list[str], loader: Loader
) -> None:
    """The connection breaks, and what comes then is another version, from its beginning: the load that had begun is
    given up, and the whole is loaded when it is there."""
    held: dict[str, Any] = {"gate": loader.asked, "num_before_gate": len(content) * 3 // 4}
    loaded = load(server, tmp_path, Served(content, breaks=[len(content) - 1000], takes_ranges=False, **held))
    assert loads == ["arrival", "file"]
    assert has_all_of(loaded, content)


def test_a_download_that_fails_midway(
    server: ModelServer, tmp_path: Path, content: bytes, loads: list[str], loader: Loader
) -> None:
    """The start ends with what the download says, and nothing hangs."""
    held = Served(content, breaks=[len(content) - 1000, 0], gate=loader.asked, num_before_gate=100_000)
    with pytest.raises(NetworkError, match=r"model\.gguf cannot be downloaded: IncompleteRead"):
        load(server, tmp_path, held)
    assert loads == ["arrival"]


def test_a_file_that_is_truncated_on_the_server(server: ModelServer, tmp_path: Path, content: bytes) -> None:
    """The header tells, and no load of it serves."""
    with pytest.raises(ModelError, match="is truncated"):
        load(server, tmp_path, Served(content[:-1000]))


def test_a_web_page_in_place_of_a_model(server: ModelServer, tmp_path: Path) -> None:
    """Found by its first bytes."""
    with pytest.raises(ModelError, match="is not a GGUF file"):
        load(server, tmp_path, Served(b"<!DOCTYPE html>" * 1000))


def test_wrong_bytes_are_never_served(
    server: ModelServer, tmp_path: Path, content: bytes, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is in memory when its checksum turns out wrong: it is let go, and the file is deleted."""
    closed: list[LlamaModel] = []
    monkeypatch.setattr(LlamaModel, "close", lambda model: closed.append(model))  # noqa: PLW0108  # a method
    server.add_repo(REPO, {"tiny-Q4_0.gguf": content})
    [(path, served)] = [(path, served) for path, served in server.files.items() if path.endswith(".gguf")]
    server.files[path] = Served(served.body[:-4] + b"\1\2\3\4")

    with pytest.raises(ModelError, match="has sha256"):
        load_weights(settings(f"{REPO}:Q4_0", tmp_path, server))

    assert loads == ["arrival"]
    assert len(closed) == 1
    assert not list((tmp_path / "models").rglob("*.gguf"))


def test_the_checksum_is_computed_as_the_bytes_come(
    server: ModelServer, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last byte is there, nothing is read again for it."""
    begun: list[int] = []
    begin = Digest.begin

    def noting(self: Digest, part: Path, num_bytes: int) -> None:
        begun.append(num_bytes - self._num_bytes)
        begin(self, part, num_bytes)

    monkeypatch.setattr(Digest, "begin", noting)
    server.add_repo(REPO, {"tiny-Q4_0.gguf": content})
    loaded = load_weights(settings(f"{REPO}:Q4_0", tmp_path, server))
    assert begun == [0, 0]
    assert has_all_of(loaded, content)


def test_expanded_weights_come_after_the_download(
    server: ModelServer, tmp_path: Path, content: bytes, loads: list[str]
) -> None:
    """Several threads read them at several places."""
    loaded = load(server, tmp_path, Served(content), WEIGHTS="16bit")
    assert loads == ["file"]
    assert has_all_of(loaded, content)


def test_too_large_for_memory_of_its_own(
    server: ModelServer, tmp_path: Path, content: bytes, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU such a file is mapped when it is there."""
    monkeypatch.setattr(weights, "usable_memory", lambda: len(content))
    loaded = load(server, tmp_path, Served(content))
    assert loads == ["file"]
    assert has_all_of(loaded, content)


def test_the_thread_that_downloads_ends(server: ModelServer, tmp_path: Path, content: bytes) -> None:
    """With the download."""
    load(server, tmp_path, Served(content)).model.close()
    for thread in threading.enumerate():
        if thread.name == "download":
            thread.join(30)
            assert not thread.is_alive()
