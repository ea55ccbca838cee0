"""`python -m local_gateway`: a gateway on a socket, from the first look at the keys to the last answer."""

import asyncio
import contextlib
import ipaddress
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal

import uvicorn

from local_gateway.accounts.auth import Authenticator
from local_gateway.accounts.keys import Key, environment_key
from local_gateway.accounts.limiter import Limiter
from local_gateway.config.proxy import ProxyRules
from local_gateway.config.redactor import Redactor
from local_gateway.config.reload import ConfigWatcher
from local_gateway.config.settings import GatewaySettings, ServerSettings
from local_gateway.edge.head_limits import bounded_protocol
from local_gateway.errors import ConfigError
from local_gateway.gateway import Gateway
from local_gateway.server import heap
from local_gateway.server.app import create_app
from local_gateway.server.banner import greeting
from local_gateway.storage.store import Store
from local_gateway.storage.sync import Snapshot
from local_gateway.storage.writer import StoreWriter
from local_gateway.telemetry.tracing import Tracer

log = logging.getLogger(__name__)

KEYS_SECONDS = 5.0  # how long the start waits for the database
FLUSH_SECONDS = 10.0  # how long the end waits for it
END_SECONDS = 10.0  # for the last words to clients, and to ask targets what they did
URGENT_SECONDS = 1.0  # the same after a second signal
KEEP_ALIVE_SECONDS = 60  # of a connection between two requests
LAST_SECONDS = 0.2
OWN_FILES = 64  # that are no connections
BACKLOG = 2048


async def serve(
    settings: GatewaySettings,
    source: Path | None,
    read: Callable[[], GatewaySettings],
    tracer: Tracer,
    *,
    proxies: ProxyRules | None = None,
    redactor: Redactor | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs. `source` is the file that `read` reads, if there is one.

    Raises ConfigError if the address cannot be had, or must not be had without keys.
    """
    stopping = Stopping()
    auth = Authenticator(require_keys=settings.server.require_keys, clock=time.time, own_keys=own_keys(settings.server))
    limiter = Limiter(time.time)
    url = settings.database.url
    writer = StoreWriter(lambda create: Store(url, create=create), keep_usage=settings.database.keep_usage)
    listener = listen(settings.server)
    async with _keys(auth, limiter, writer):
        refuse_open_door(settings.server, auth)
        gateway = Gateway(settings, auth, limiter, writer, tracer=tracer, proxies=proxies, redactor=redactor)
        try:
            async with _watched(settings, source, read, gateway):
                await _run(gateway, listener, stopping)
        finally:
            await _unless_urgent(gateway.aclose(), stopping)
            await asyncio.to_thread(tracer.close)


@contextlib.asynccontextmanager
async def _keys(auth: Authenticator, limiter: Limiter, writer: StoreWriter) -> AsyncIterator[None]:
    """Around all requests: keys are known before the first, and the last is recorded after it."""
    known = asyncio.Event()

    def publish(snapshot: Snapshot) -> None:
        auth.update(snapshot.keyring)
        limiter.refresh(snapshot.spends, snapshot.stored)
        known.set()

    writer.start(publish)
    try:
        with contextlib.suppress(TimeoutError):  # then requests are refused until they are known
            async with asyncio.timeout(KEYS_SECONDS):
                await known.wait()
        yield
    finally:
        await asyncio.to_thread(writer.close, FLUSH_SECONDS)


@contextlib.asynccontextmanager
async def _watched(
    settings: GatewaySettings, source: Path | None, read: Callable[[], GatewaySettings], gateway: Gateway
) -> AsyncIterator[None]:
    """Around a gateway whose configuration may change."""
    if source is None:
        yield
        return

    def apply(new: GatewaySettings) -> None:
        gateway.reload(new)
        logging.getLogger().setLevel(new.log.level)

    watching = asyncio.create_task(ConfigWatcher(source, settings, read, apply).run())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


class Stopping:
    """SIGTERM and SIGINT, from the first moment: the first one asks to finish, the second to stop at once."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.is_urgent = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        if self.is_asked.is_set():
            self.is_urgent.set()
        self.is_asked.set()


async def _run(gateway: Gateway, listener: socket.socket, stopping: Stopping) -> None:
    """Until a signal comes and all requests are over, each with its record."""
    server = _Server(_config(gateway), lambda: _greet(gateway, listener))
    gateway.start()
    serving = asyncio.create_task(server.serve([listener]))
    ending = asyncio.create_task(_end(gateway, server, stopping))
    try:
        await serving
        await gateway.running.over(URGENT_SECONDS if stopping.is_urgent.is_set() else END_SECONDS)
    finally:
        ending.cancel()


async def _end(gateway: Gateway, server: uvicorn.Server, stopping: Stopping) -> None:
    """What runs may go on for `drain`; then it is ended here, so that clients and records are told; then the server."""
    await stopping.is_asked.wait()
    gateway.is_stopping.set()
    server.should_exit = True  # no new connections, and none is kept
    urgent = asyncio.create_task(stopping.is_urgent.wait())
    try:
        await _over_or(urgent, gateway, gateway.active.settings.server.drain)
        gateway.running.stop(at_once=urgent.done())
        await _over_or(urgent, gateway, END_SECONDS)
        gateway.running.stop(at_once=True)
        await gateway.running.over(URGENT_SECONDS)
        await asyncio.sleep(LAST_SECONDS)  # for what is written to leave
        server.force_exit = True
    finally:
        urgent.cancel()


async def _unless_urgent(closing: Coroutine[Any, Any, None], stopping: Stopping) -> None:
    """What takes its time, like telling RunPod of jobs; after a second signal a second of it."""
    task = asyncio.create_task(closing)
    urgent = asyncio.create_task(stopping.is_urgent.wait())
    await asyncio.wait([task, urgent], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([task], timeout=URGENT_SECONDS)
    urgent.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=URGENT_SECONDS)


async def _over_or(urgent: asyncio.Task[Literal[True]], gateway: Gateway, seconds: float) -> None:
    """Returns when no request runs, after that time, or at the second signal."""
    over = asyncio.create_task(gateway.running.over(seconds))
    await asyncio.wait([over, urgent], return_when=asyncio.FIRST_COMPLETED)
    over.cancel()


class _Server(uvicorn.Server):
    """uvicorn's, which says when it listens, and leaves the signals to us."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        heap.settle()
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(gateway: Gateway) -> uvicorn.Config:
    server = gateway.active.settings.server
    return uvicorn.Config(
        create_app(gateway),
        http=bounded_protocol(connection_limit(server)),  # type: ignore[arg-type]  # called as the class is
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


def _greet(gateway: Gateway, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    sys.stdout.write(greeting(gateway.active.settings, host, port, needs_key=gateway.auth.needs_key))
    sys.stdout.flush()


def connection_limit(server: ServerSettings) -> int:
    """How many clients' connections this process has files for, each with one to a target; asks the system for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return 0
    limit = max(1, (soft - OWN_FILES) // 2)
    if limit < server.max_requests:
        log.warning("%d open files are allowed (ulimit -n): at most %d clients are connected at once.", soft, limit)
    return limit


def listen(server: ServerSettings) -> socket.socket:
    """Raises ConfigError."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"Cannot listen at {server.host} port {server.port}: {error.strerror}.") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def own_keys(server: ServerSettings) -> tuple[Key, ...]:
    """Keys of the configuration, which are in no database."""
    secret = server.admin_key.get_secret_value()
    return (environment_key(secret),) if secret else ()


def refuse_open_door(server: ServerSettings, auth: Authenticator) -> None:
    """Raises ConfigError where others could use this gateway, and the money behind it, without a key."""
    if auth.needs_key or server.insecure or _is_loopback(server.host):
        return
    if not auth.is_ready:
        raise ConfigError("Others can reach this address, and the database, where the keys are, cannot be read.")
    raise ConfigError(
        f"Others can reach {server.host}, and there are no keys. Make one: python -m local_gateway keys create NAME; "
        "or set server.require_keys; or allow it with --insecure."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
