"""Downloads that resume, check what came, and never leave a wrong file under the right name."""

import errno
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from handler.errors import ModelError, NetworkError
from handler.models import downloads
from handler.models.downloads import Download, download
from handler.models.storage import store
from tests.models.model_server import ModelServer, Served, make_gguf, serving

MODEL = make_gguf(1000)
HALF = len(MODEL) // 2
TOKEN = SecretStr("hf_secret")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model.gguf"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 100)


def leave_part(target: Path, content: bytes, etag: str = '"v1"') -> None:
    """What a process leaves that is killed in the middle of a download."""
    target.parent.mkdir(parents=True)
    target.with_name("model.gguf.part").write_bytes(content)
    target.with_name("model.gguf.part.etag").write_text(etag)


def names_beside(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {"model.gguf.lock"}


def fetch(server: ModelServer, target: Path, served: Served, checksum: str | None = None) -> None:
    server.files["/model.gguf"] = served
    download([Download(f"{server.url}/model.gguf", target, sha256=checksum)])


def test_file_arrives_and_nothing_else_stays(server: ModelServer, target: Path) -> None:
    """A download makes its directories and leaves neither a partial file nor a note behind."""
    fetch(server, target, Served(MODEL), sha256(MODEL).hexdigest())
    assert target.read_bytes() == MODEL
    assert names_beside(target) == {"model.gguf"}


def test_file_that_is_there_is_not_asked_for(server: ModelServer, target: Path) -> None:
    """A second download of a file does not touch the network."""
    fetch(server, target, Served(MODEL))
    fetch(server, target, Served(MODEL))
    assert len(server.seen) == 1


def test_killed_download_is_resumed(server: ModelServer, target: Path) -> None:
    """What has arrived is not fetched again, if the server still has the same version."""
    leave_part(target, MODEL[:HALF])
    fetch(server, target, Served(MODEL))
    assert server.seen[0].headers["Range"] == f"bytes={HALF}-"
    assert server.seen[0].headers["If-Range"] == '"v1"'
    assert target.read_bytes() == MODEL


def test_killed_before_its_checks_is_whole(server: ModelServer, target: Path) -> None:
    """A partial file that has every byte is not fetched again."""
    leave_part(target, MODEL)
    fetch(server, target, Served(MODEL), sha256(MODEL).hexdigest())
    assert len(server.seen) == 1
    assert target.read_bytes() == MODEL


def test_partial_file_longer_than_the_servers_starts_over(server: ModelServer, target: Path) -> None:
    """A range beyond the end is not the end of it: the file is fetched from its first byte."""
    leave_part(target, MODEL + b"more")
    fetch(server, target, Served(MODEL))
    assert target.read_bytes() == MODEL


def test_partial_file_of_unknown_version_starts_over(server: ModelServer, target: Path) -> None:
    """Without a note of its version it is unknown whether the rest would fit."""
    leave_part(target, b"x" * HALF)
    target.with_name("model.gguf.part.etag").unlink()
    fetch(server, target, Served(MODEL))
    assert "Range" not in server.seen[0].headers
    assert target.read_bytes() == MODEL


def test_changed_file_starts_over(server: ModelServer, target: Path) -> None:
    """Halves of two versions are not glued together."""
    leave_part(target, b"x" * HALF, etag='"v0"')
    fetch(server, target, Served(MODEL))
    assert target.read_bytes() == MODEL


def test_server_without_ranges_starts_over(server: ModelServer, target: Path) -> None:
    """A server that ignores the range sends all, and all is taken."""
    leave_part(target, MODEL[:HALF])
    fetch(server, target, Served(MODEL, takes_ranges=False))
    assert target.read_bytes() == MODEL


def test_broken_connections_are_resumed_at_once(server: ModelServer, target: Path) -> None:
    """A download goes on through broken connections as long as each brings it further."""
    fetch(server, target, Served(MODEL, breaks=[1000, 1000]))
    assert [seen.headers["Range"] for seen in server.seen] == [None, "bytes=1000-", "bytes=2000-"]
    assert target.read_bytes() == MODEL


def test_weak_etag_is_no_version(server: ModelServer, target: Path) -> None:
    """A server that promises only a similar file is asked for all of it again."""
    fetch(server, target, Served(MODEL, etag='W/"v1"', breaks=[1000]))
    assert [seen.headers["Range"] for seen in server.seen] == [None, None]
    assert target.read_bytes() == MODEL


def test_connection_that_brings_nothing_ends_the_download(server: ModelServer, target: Path) -> None:
    """Without progress the download fails, and keeps what it has for the next time."""
    with pytest.raises(NetworkError, match="cannot be downloaded: IncompleteRead"):
        fetch(server, target, Served(MODEL, breaks=[1000, 0]))
    assert names_beside(target) == {"model.gguf.part", "model.gguf.part.etag"}


def test_busy_server_is_asked_again(server: ModelServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 503 is not the end; the number of tries is."""
    monkeypatch.setattr(downloads, "_RETRY", downloads._RETRY.new(total=1))
    with pytest.raises(NetworkError, match="answers 503"):
        fetch(server, target, Served(b"", status=503))
    assert len(server.seen) == 2


def test_wrong_checksum_leaves_nothing(server: ModelServer, target: Path) -> None:
    """A file with other bytes than announced is deleted and the message says so."""
    with pytest.raises(ModelError, match=r"has sha256 [0-9a-f]{64} instead of 0000"):
        fetch(server, target, Served(MODEL), "0" * 64)
    assert names_beside(target) == set()


def test_web_page_leaves_nothing(server: ModelServer, target: Path) -> None:
    """A login page in place of the model is found without a checksum."""
    with pytest.raises(ModelError, match="is not a GGUF file"):
        fetch(server, target, Served(b"<!DOCTYPE html>"))
    assert names_beside(target) == set()


def test_truncated_upload_leaves_nothing(server: ModelServer, target: Path) -> None:
    """A file that is incomplete on the server already is found without a checksum."""
    with pytest.raises(ModelError, match="is truncated"):
        fetch(server, target, Served(MODEL[:-1]))
    assert names_beside(target) == set()


def test_refusal_is_told(server: ModelServer, target: Path) -> None:
    """The message has the address and the status."""
    with pytest.raises(NetworkError, match=r"model.gguf cannot be downloaded: the server answers 404 Not Found"):
        fetch(server, target, Served(b"", status=404))


def test_refusal_keeps_what_has_arrived(server: ModelServer, target: Path) -> None:
    """A server that refuses today may go on tomorrow."""
    leave_part(target, MODEL[:HALF])
    with pytest.raises(NetworkError):
        fetch(server, target, Served(b"", status=404, takes_ranges=False))
    assert target.with_name("model.gguf.part").read_bytes() == MODEL[:HALF]


def test_token_goes_to_its_host_only(server: ModelServer, target: Path) -> None:
    """A redirect to another host, such as a CDN, does not get the token."""
    with serving() as cdn:
        cdn.files["/blob"] = Served(MODEL)
        server.files["/model.gguf"] = Served(b"", status=302, headers={"Location": f"{cdn.url}/blob"})
        download([Download(f"{server.url}/model.gguf", target, token=TOKEN)])
    assert server.seen[0].headers["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in cdn.seen[0].headers


def test_plain_http_is_refused(target: Path) -> None:
    """Only this machine may be asked over plain http."""
    with pytest.raises(ModelError, match=r"http://models.test/model.gguf is not https"):
        download([Download("http://models.test/model.gguf", target)])


def test_redirect_to_plain_http_is_refused(server: ModelServer, target: Path) -> None:
    """A redirect does not get around it; 0.0.0.0 stands for another host."""
    server.files["/blob"] = Served(MODEL)
    elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")
    with pytest.raises(ModelError, match=r"http://0.0.0.0:\d+/blob is not https"):
        fetch(server, target, Served(b"", status=302, headers={"Location": f"{elsewhere}/blob"}))


@pytest.mark.parametrize("status", [200, 404])
def test_signatures_stay_secret(
    server: ModelServer, target: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """The query of a URL reaches the server and neither the log nor a message."""
    caplog.set_level(logging.INFO)
    server.files["/model.gguf"] = Served(MODEL, status=status)
    message = ""
    try:
        download([Download(f"{server.url}/model.gguf?signature=s3cr3t", target)])
    except NetworkError as error:
        message = str(error)
    assert server.seen[0].path == "/model.gguf?signature=s3cr3t"
    assert "s3cr3t" not in caplog.text + message


def test_unreachable_server_is_told_without_the_query(target: Path) -> None:
    """The reason is the deepest one, because the outer ones quote the URL."""
    with serving() as server:
        url = f"{server.url}/model.gguf"
    with pytest.raises(NetworkError, match="Connection refused") as caught:
        download([Download(f"{url}?signature=s3cr3t", target)])
    assert "s3cr3t" not in str(caught.value)


def test_too_little_space_is_found_first(server: ModelServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files together must fit, or the server is not even asked."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_500_000_000))
    files = [Download(server.url, target.with_name(name), num_bytes=10**9) for name in ("a.gguf", "b.gguf")]
    with pytest.raises(ModelError, match=r"2.0 GB are to come and 1.5 GB are free"):
        download(files)
    assert server.seen == []


def test_what_has_arrived_needs_no_space(server: ModelServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed download needs space for the rest only."""
    leave_part(target, MODEL[:HALF])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=len(MODEL) - HALF))
    server.files["/model.gguf"] = Served(MODEL)
    download([Download(f"{server.url}/model.gguf", target, num_bytes=len(MODEL))])
    assert target.read_bytes() == MODEL


def test_size_the_server_tells_must_fit(server: ModelServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the size is not known before, it is by the answer's head."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match="No space"):
        fetch(server, target, Served(MODEL))
    assert target.with_name("model.gguf.part").exists() is False


def test_disk_that_fills_up_is_explained(target: Path) -> None:
    """Others may take the space while the file is written."""

    def write(part: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ModelError, match=r"No space left in .*models: free some, or set MODELS_DIR"):
        store(target, None, write)


def test_unwritable_directory_is_explained(server: ModelServer, tmp_path: Path) -> None:
    """A directory that cannot be made, here because a file is in its way, names the setting to change."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"Cannot write to .*file/models \(Not a directory\).*MODELS_DIR"):
        fetch(server, tmp_path / "file" / "models" / "model.gguf", Served(MODEL))


@pytest.fixture
def progress(server: ModelServer, target: Path, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Downloads 2,196 bytes in chunks of 100 and returns the log lines about the progress."""
    caplog.set_level(logging.INFO)

    def lines() -> list[str]:
        fetch(server, target, Served(make_gguf(525)))
        return [record.getMessage() for record in caplog.records if " MB of " in record.getMessage()]

    return lines


def test_progress_is_logged_after_the_interval(
    progress: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away from a terminal a chunk that comes after the interval has a line."""
    monkeypatch.setattr("handler.progress.MAX_PAUSE", 0.0)
    assert len(progress()) == 22


def test_progress_is_not_logged_before(progress: Callable[[], list[str]]) -> None:
    """A quick download has no lines about its progress."""
    assert progress() == []


class OnWaiting(logging.Handler):
    """Opens the gate when the log says that a process waits for the lock."""

    def __init__(self, gate: Event) -> None:
        super().__init__()
        self.gate = gate

    def emit(self, record: logging.LogRecord) -> None:
        if "another process is fetching" in record.getMessage():
            self.gate.set()


@pytest.fixture
def gate(caplog: pytest.LogCaptureFixture) -> Iterator[Event]:
    gate = Event()
    handler = OnWaiting(gate)
    caplog.set_level(logging.INFO)
    logging.getLogger("handler.models.storage").addHandler(handler)
    yield gate
    logging.getLogger("handler.models.storage").removeHandler(handler)


def test_two_processes_fetch_a_file_once(server: ModelServer, target: Path, gate: Event) -> None:
    """The second process waits until the first is done, and uses its file."""
    served = server.files["/model.gguf"] = Served(MODEL, gate=gate)
    url = f"{server.url}/model.gguf"
    code = "import sys; from pathlib import Path; from handler.models.downloads import Download, download; "
    code += "download([Download(sys.argv[1], Path(sys.argv[2]))])"
    with subprocess.Popen([sys.executable, "-c", code, url, str(target)]) as first:
        assert served.asked.wait(timeout=30)
        download([Download(url, target)])
    assert first.returncode == 0
    assert len(server.seen) == 1
    assert target.read_bytes() == MODEL
