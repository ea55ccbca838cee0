"""A child process, what it says, and that it never outlives us."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from local_gateway.backends.local.child_process import MAX_LINE_BYTES, PACKAGES, Child
from tests.waiting import eventually

GRACE = 20.0  # seconds until a test that hangs fails
IGNORES_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", file=sys.stderr, flush=True)
time.sleep(1000)
"""
# Starts a child on a leash, says its process id, and waits to be killed.
PARENT = """
import asyncio, os, sys
from local_gateway.backends.local.child_process import Child

async def main():
    child = await Child.start(["sleep", "1000"], os.environ, print)
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


@asynccontextmanager
async def started(*command: str, **environ: str) -> AsyncIterator[tuple[Child, list[str]]]:
    """A child and its lines so far."""
    lines: list[str] = []
    child = await Child.start(command, {**os.environ, **environ}, lines.append)
    try:
        yield child, lines
    finally:
        await child.stop(GRACE)


def python(source: str) -> tuple[str, ...]:
    return sys.executable, "-c", source


def is_running(pid: int) -> bool:
    """Whether it does anything still: one that is dead but not buried does not."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_program(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == name


async def test_its_lines_and_its_end() -> None:
    """Every line of its standard error is told as it comes; the last ones say why it ended."""
    source = "import sys; print('one\\n\\ntwo', file=sys.stderr); print('never shown'); sys.exit(3)"
    async with started(*python(source)) as (child, lines):
        assert await child.wait() == 3

    assert lines == ["one", "two"]
    assert child.last_error_line == "two"


async def test_the_reason_is_the_error_it_names() -> None:
    """Our programs say why they end in one line; what libraries print afterwards is noise."""
    source = "import sys; print('error: no such file', file=sys.stderr); print('bye', file=sys.stderr)"
    async with started(*python(source)) as (child, _):
        await child.wait()

    assert child.last_error_line == "no such file"


async def test_a_line_without_end_is_told_in_parts() -> None:
    """So that nothing gathers here without bounds."""
    source = f"import sys; sys.stderr.write({10 * MAX_LINE_BYTES} * 'x')"
    async with started(*python(source)) as (child, lines):
        await child.wait()

    assert "".join(lines) == 10 * MAX_LINE_BYTES * "x"
    assert max(map(len, lines)) <= 2 * MAX_LINE_BYTES


async def test_it_has_our_packages_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway may be started from anywhere."""
    monkeypatch.chdir(tmp_path)
    async with started(*python("import handler.settings, local_gateway"), PYTHONPATH="") as (child, lines):
        assert await child.wait() == 0, lines


async def test_a_program_that_does_not_exist() -> None:
    """Is a child that ends and says so."""
    async with started("no-such-program") as (child, _):
        assert await child.wait() == 1

    assert child.last_error_line == "Cannot run no-such-program: No such file or directory."


async def test_stop_asks_first() -> None:
    """A program that listens to SIGTERM ends by itself."""
    async with started("sleep", "1000") as (child, _):
        await eventually(lambda: is_program(child.pid, "sleep"))
        await child.stop(GRACE)

        assert await child.wait() == -signal.SIGTERM


async def test_stop_does_not_ask_twice() -> None:
    """A program that does not listen is killed."""
    async with started(*python(IGNORES_SIGTERM)) as (child, lines):
        await eventually(lambda: lines == ["deaf"])
        await child.stop(0)

        assert await child.wait() == -signal.SIGKILL


async def test_its_own_children_go_with_it() -> None:
    """Nothing is left of it, even if it leaves something behind."""
    source = "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid, file=sys.stderr)"
    async with started(*python(source)) as (child, lines):
        await child.wait()

    await eventually(lambda: not is_running(int(lines[0])))


async def test_ctrl_c_does_not_reach_it() -> None:
    """A terminal sends its signals to a group of processes, to which the child does not belong."""
    async with started("sleep", "1000") as (child, _):
        assert os.getpgid(child.pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
async def test_it_ends_when_we_are_killed() -> None:
    """kill -9 leaves its victim no time to tidy up."""
    environ = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    parent = await asyncio.create_subprocess_exec(*python(PARENT), stdout=asyncio.subprocess.PIPE, env=environ)
    assert parent.stdout is not None
    child_pid = int(await parent.stdout.readline())
    await eventually(lambda: is_program(child_pid, "sleep"))

    parent.kill()

    await eventually(lambda: not is_running(child_pid))
    await parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_it_does_not_begin_without_us() -> None:
    """A parent that died while its child began never gets to it: the child notices."""
    command = [sys.executable, "-m", "local_gateway.backends.local.die_with_parent", "1", "sleep", "1000"]
    result = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, timeout=GRACE, check=False)

    assert (result.returncode, result.stderr) == (1, "error: The process that started this one is gone.\n")
