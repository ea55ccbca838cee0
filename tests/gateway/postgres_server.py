"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on a free port of 127.0.0.1."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian has them
USER = "postgres"  # Debian's; the server refuses to run as root


class PostgresServer:
    """Can be stopped and started; keeps its port and its data."""

    def __init__(self, binaries: Path, folder: Path, port: int) -> None:
        self.port = port
        self._binaries = binaries
        self._data = folder / "data"

    def initialize(self) -> None:
        self._call("initdb", "--auth=trust", "--username=gateway", "--no-sync", "--encoding=UTF8", "--locale=C")

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._call("pg_ctl", "--wait", "--log", str(self._data / "log"), "--options", options, "start")

    def stop(self) -> None:
        """At once, as if the machine were switched off."""
        self._call("pg_ctl", "--wait", "--mode=immediate", "stop")

    def new_database(self) -> str:
        """Its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._address(name)

    def _address(self, database: str) -> str:
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def _call(self, program: str, *arguments: str) -> None:
        user = {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}
        command = [str(self._binaries / program), "--pgdata", str(self._data), *arguments]
        done = subprocess.run(  # type: ignore[call-overload]  # of user's optional arguments
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", check=False, text=True, **user
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def postgres_server(port: int) -> Iterator[PostgresServer]:
    """Skips the test where PostgreSQL is not installed; in CI it has to be."""
    if not BINARIES:
        reason = "PostgreSQL is not installed: apt-get install postgresql"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))  # not in pytest's, which its user cannot enter
    try:
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)
        server = PostgresServer(BINARIES[-1], folder, port)
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
