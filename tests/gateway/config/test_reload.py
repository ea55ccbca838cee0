"""A running gateway takes over its file when it changes."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from local_gateway.config.file_watch import FileWatch
from local_gateway.config.load import load
from local_gateway.config.reload import ConfigWatcher, keep_fixed
from local_gateway.config.settings import GatewaySettings
from local_gateway.errors import ConfigError

MODEL = "models:\n  {name}: {{targets: [{{type: openai}}]}}\n"
TIMEOUT = 20.0  # seconds until a test that hangs fails


def write(path: Path, name: str, more: str = "") -> None:
    """As most editors and tools do: a new file takes the old one's name."""
    new = path.with_suffix(".new")
    new.write_text(MODEL.format(name=name) + more)
    new.replace(path)


def link(path: Path, name: str) -> None:
    """As config maps do it: the file is a link, and another link takes its place."""
    write(path.with_name(f"{name}.yaml"), name)
    new = path.with_name("link")
    new.symlink_to(path.with_name(f"{name}.yaml"))
    new.replace(path)


def edit(path: Path, how: str) -> None:
    match how:
        case "in place":
            path.write_text(MODEL.format(name="second"))
        case "a new file":
            write(path, "second")
        case "a link":
            link(path, "second")


def damage(path: Path) -> None:
    path.write_text("models:\n  first: {targets: [{type: opanai}]}\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    write(path, "first")
    return path


class Taker:
    """Takes settings over, and tells when."""

    def __init__(self) -> None:
        self.taken: asyncio.Queue[GatewaySettings] = asyncio.Queue()
        self.refusal: Exception | None = None

    def __call__(self, settings: GatewaySettings) -> None:
        if self.refusal:
            raise self.refusal
        self.taken.put_nowait(settings)

    async def next_models(self) -> list[str]:
        return list((await asyncio.wait_for(self.taken.get(), TIMEOUT)).models)


def watcher_of(path: Path, take: Callable[[GatewaySettings], None]) -> ConfigWatcher:
    return ConfigWatcher(path, load(path, {}), lambda: load(path, {}), take)


@asynccontextmanager
async def running(watcher: ConfigWatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(watcher.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# What is taken over


def test_address_database_and_log_format_stay(path: Path) -> None:
    """A socket, a database and log lines cannot be exchanged while requests run; all else can."""
    current = load(path, {})
    write(path, "second", "server: {host: 0.0.0.0, port: 1, max_requests: 7}\ndatabase: {url: 'sqlite:///x'}\n")
    settings, kept = keep_fixed(current, load(path, {}))

    assert kept == ["server.host", "server.port", "database.url"]
    assert settings.server == current.server.model_copy(update={"max_requests": 7})
    assert settings.database == current.database
    assert list(settings.models) == ["second"]


@pytest.mark.parametrize("how", ["in place", "a new file", "a link"])
async def test_every_kind_of_edit_is_taken_over(path: Path, how: str) -> None:
    """In place, by a new file of the same name, and by a link that leads elsewhere, as config maps do it."""
    take = Taker()
    if how == "a link":
        link(path, "first")
    watcher = watcher_of(path, take)

    async with running(watcher):
        while not take.taken.qsize():  # edits before the watch has begun are not seen: edit until one is
            edit(path, how)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    assert await take.next_models() == ["second"]
                    break

    assert list(watcher.current.models) == ["second"]


async def test_sighup_reads_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no thread to watch the file."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(FileWatch, "start", refuse)
    take = Taker()
    watcher = watcher_of(path, take)

    async with running(watcher):
        write(path, "second")
        await asyncio.sleep(0)  # the watcher's task installs its signal handler
        os.kill(os.getpid(), signal.SIGHUP)
        models = await take.next_models()

    assert models == ["second"]


async def test_change_during_the_start_is_seen(path: Path) -> None:
    """Between the first reading and the watcher's start other things are started."""
    take = Taker()
    watcher = watcher_of(path, take)
    write(path, "second")

    async with running(watcher):
        assert await take.next_models() == ["second"]


async def test_same_settings_are_no_change(path: Path) -> None:
    """A comment was added."""
    take = Taker()
    watcher = watcher_of(path, take)
    write(path, "first", "# said\n")

    await watcher.reload()

    assert take.taken.empty()


async def test_bad_file_changes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says line and reason; the next good file is taken."""
    take = Taker()
    watcher = watcher_of(path, take)
    damage(path)

    await watcher.reload()
    models = list(watcher.current.models)
    write(path, "second")
    await watcher.reload()

    assert models == ["first"]
    assert f"{path} line 2: models.first.targets[0].type: must be `openai`" in caplog.text
    assert await take.next_models() == ["second"]


async def test_bad_file_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is looked at."""
    watcher = watcher_of(path, Taker())
    damage(path)

    for _ in range(5):
        await watcher.reload()

    assert caplog.text.count("must be `openai`") == 1


@pytest.mark.parametrize("refusal", [ConfigError("a public address without keys"), RuntimeError("a mistake of ours")])
async def test_settings_that_cannot_apply(path: Path, refusal: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The current ones stay, and so does the watcher."""
    take = Taker()
    take.refusal = refusal
    watcher = watcher_of(path, take)
    write(path, "second")

    await watcher.reload()
    models = list(watcher.current.models)
    take.refusal = None
    await watcher.reload()

    assert models == ["first"]
    assert str(refusal) in caplog.text
    assert await take.next_models() == ["second"]


async def test_what_stays_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its name; an address of a database may hold a password."""
    watcher = watcher_of(path, Taker())
    write(path, "first", "database: {url: 'postgresql://me:s3cret@db/gateway'}\n")

    with caplog.at_level(logging.DEBUG):
        await watcher.reload()

    assert "database.url stays as it was until the gateway is started again" in caplog.text
    assert "s3cret" not in caplog.text
