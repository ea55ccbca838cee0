"""Takes over gateway.yaml when it changes, or on SIGHUP. A wrong file changes nothing and is reported once."""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from local_gateway.config.file_watch import FileWatch
from local_gateway.config.settings import FIXED, GatewaySettings, Part
from local_gateway.errors import ConfigError

log = logging.getLogger(__name__)


def keep_fixed(current: GatewaySettings, new: GatewaySettings) -> tuple[GatewaySettings, list[str]]:
    """The new settings with the current values of FIXED fields, and the names of those that differed."""
    kept = []
    for section, key in _fixed_fields():
        part: Part = getattr(new, section)
        value = getattr(getattr(current, section), key)
        if getattr(part, key) != value:
            new = new.model_copy(update={section: part.model_copy(update={key: value})})
            kept.append(f"{section}.{key}")
    return new, kept


def _fixed_fields() -> Iterator[tuple[str, str]]:
    for section, info in GatewaySettings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Part):
            for key, field in info.annotation.model_fields.items():
                if FIXED in field.metadata:
                    yield section, key


def _tell(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    """From the watch's thread, which may outlive the loop by one look."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(changed.set)


class ConfigWatcher:
    """Watches one file while `run` runs; lives in the event loop.

    `read` makes settings of the file and of the command line, in a thread, and raises ConfigError. `apply` takes over
    settings that differ from the current ones; when it raises ConfigError, the current ones stay. Knows nothing of
    what the settings are for.
    """

    def __init__(
        self,
        path: Path,
        current: GatewaySettings,
        read: Callable[[], GatewaySettings],
        apply: Callable[[GatewaySettings], None],
    ) -> None:
        self.current = current
        self._path = path
        self._read = read
        self._apply = apply
        self._reported = ""  # the mistake in the log's last line about this file
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Until it is cancelled. Reads the file once at the start: it may have changed since the gateway read it."""
        loop = asyncio.get_running_loop()
        asked, changed = asyncio.Event(), asyncio.Event()
        watch = FileWatch(self._path, partial(_tell, loop, changed))
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        try:
            watch.start()
        except RuntimeError as error:
            log.warning("%s cannot be watched, so that only SIGHUP has it read again: %s", self._path, error)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(asked, is_asked=True))
                group.create_task(self._follow(changed, is_asked=False))
        finally:
            watch.stop()
            loop.remove_signal_handler(signal.SIGHUP)

    async def _follow(self, event: asyncio.Event, *, is_asked: bool) -> None:
        while True:
            await event.wait()
            event.clear()
            await self.reload(is_asked=is_asked)

    async def reload(self, *, is_asked: bool = False) -> None:
        """Read the file now. Never raises: whatever goes wrong, the current settings stay."""
        async with self._one_at_a_time:
            try:
                self._take_over(await asyncio.to_thread(self._read), is_asked=is_asked)
                self._reported = ""
            except ConfigError as error:
                if is_asked or str(error) != self._reported:
                    log.error("The configuration stays as it was, for the new one is wrong:\n%s", error)
                self._reported = str(error)
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
