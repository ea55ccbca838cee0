"""Takes over gateway.yaml when it changes, or on SIGHUP. A bad file changes nothing and is told once."""

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from local_gateway.config.settings import GatewaySettings
from local_gateway.errors import ConfigError

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks at the file
# Until the next start.
FIXED = (
    *(("server", key) for key in ("host", "port", "insecure", "admin_key", "cors_origins", "drain")),
    *(("timeouts", key) for key in ("connect", "idle")),
    *(("database", key) for key in ("url", "keep_usage")),
    ("log", "format"),
)


class Fingerprint(NamedTuple):
    """Of what a path leads to, through all links. Changes with every edit, also by renaming or by another link."""

    device: int
    inode: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "Fingerprint | None":
        """None: there is no file, or it cannot be seen."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


class Changes:
    """Decides when a file is to be read: when it differs from what was read, and is written to its end."""

    def __init__(self) -> None:
        self._seen: Fingerprint | None = None
        self._read: Fingerprint | None = None

    def are_due(self, now: Fingerprint | None, *, is_asked: bool = False) -> bool:
        """Whether to read it now: when somebody asks, or it changed and looks the same twice.

        Half a file may be a valid one, so its writer is given that time. No file is no change.
        """
        is_settled, self._seen = now == self._seen, now
        is_due = is_asked or (is_settled and now not in (None, self._read))
        if is_due:
            self._read = now
        return is_due


def keep_fixed(current: GatewaySettings, new: GatewaySettings) -> tuple[GatewaySettings, list[str]]:
    """The new settings, with the current ones where they cannot change in a running gateway; and which differed."""
    changed = [(section, key) for section, key in FIXED if _value(current, section, key) != _value(new, section, key)]
    for section, key in changed:
        part: BaseModel = getattr(new, section)
        part = part.model_copy(update={key: _value(current, section, key)})
        new = new.model_copy(update={section: part})
    return new, [f"{section}.{key}" for section, key in changed]


def _value(settings: GatewaySettings, section: str, key: str) -> object:
    return getattr(getattr(settings, section), key)


class ConfigWatcher:
    """Watches one file while `run` runs.

    `read` makes settings of the file and of the command line, in a thread, and raises ConfigError. `apply` takes over
    others than the current ones; when it raises ConfigError, those stay. Knows nothing of what the settings are for.
    """

    def __init__(
        self,
        path: Path,
        current: GatewaySettings,
        read: Callable[[], GatewaySettings],
        apply: Callable[[GatewaySettings], None],
        *,
        interval: float = INTERVAL,
    ) -> None:
        self.current = current
        self._path = path
        self._read = read
        self._apply = apply
        self._interval = interval
        self._changes = Changes()
        self._asked = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled. The first look reads the file once more: it may have changed since it was read."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        try:
            while True:
                await self.look()
                await self._pause()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await self._asked.wait()
        except TimeoutError:
            return

    async def look(self) -> None:
        """At the file, once."""
        is_asked = self._asked.is_set()
        self._asked.clear()
        if self._changes.are_due(Fingerprint.of(self._path), is_asked=is_asked):
            await self.reload(is_asked=is_asked)

    async def reload(self, *, is_asked: bool = False) -> None:
        """Read the file now. Never raises: whatever goes wrong, the current settings stay."""
        try:
            self._take_over(await asyncio.to_thread(self._read), is_asked=is_asked)
        except ConfigError as error:
            log.error("The configuration stays as it was, for the new one is wrong:\n%s", error)
        except Exception:
            log.exception("The configuration stays as it was, for taking over the new one failed.")

    def _take_over(self, new: GatewaySettings, *, is_asked: bool) -> None:
        new, kept = keep_fixed(self.current, new)
        for name in kept:
            log.warning("%s: %s stays as it was until the gateway is started again.", self._path, name)
        if new == self.current:
            log.log(logging.INFO if is_asked else logging.DEBUG, "%s: nothing has changed.", self._path)
            return
        self._apply(new)
        self.current = new
        log.info("%s: the new configuration is in use.", self._path)
