"""A reader of one page: a folder and a home of its own, and a free port for the gateway.

The models are those of this machine, so that nothing is downloaded twice.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from handler.settings import Settings
from tests.docs.pages import ROOT, Fence

PATIENCE = 180.0  # seconds until a block that is run fails
COMPILED = "handler/engine/llama/libdraw.so"
PORT = re.compile(r"(?<=127\.0\.0\.1:)8000\b|(?<=localhost:)8000\b")
CURLRC = "silent\nshow-error\nfail-with-body\n"  # else an error's body would count as an answer


class BlockError(Exception):
    """A block did not do what its page says. The message is what it printed."""


class Reader:
    """Follows a page from its beginning. Blocks share folder, home and server, not the shell's variables."""

    def __init__(self, folder: Path) -> None:
        """`folder` must be empty, and stays the caller's to delete. Blocks run in `self.folder`, which is in it."""
        self.folder, self._home = folder / "gguf-on-runpod", folder / "home"
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        self._printed = ""
        self.folder.mkdir()
        self._home.mkdir()
        (self._home / ".curlrc").write_text(CURLRC)
        self.port = _free_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_server()

    def follow(self, fence: Fence) -> None:
        """Do what the block's mark says. Raises BlockError."""
        assert fence.mark is not None
        text = PORT.sub(str(self.port), fence.text)
        if fence.mark.verb == "serve":
            self._serve(text)
        elif fence.mark.verb == "output":
            self._compare(fence.text)
        elif fence.mark.verb == "config":
            (self.folder / fence.mark.options["file"]).write_text(text)
        elif fence.mark.verb == "run":
            packages = fence.mark.options.get("with", "").split()
            self._run(command_for(fence.language, text, packages), fence.mark.options)

    def _run(self, command: list[str], options: Mapping[str, str]) -> None:
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment(),
                input=options.get("typed", ""),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BlockError(f"not done within {PATIENCE:g} s:\n{error.stdout!r}") from None
        self._printed = done.stdout
        if done.returncode:
            raise BlockError(f"exit status {done.returncode}:\n{done.stdout}")
        if options.get("prints", "") not in done.stdout:
            raise BlockError(f"{options['prints']!r} was not printed:\n{done.stdout}")

    def _compare(self, expected: str) -> None:
        pattern = ".*?".join(re.escape(piece) for piece in expected.strip().split("..."))
        if not re.fullmatch(pattern, self._printed.strip(), re.DOTALL):
            raise BlockError(f"printed was:\n{self._printed}")

    def _serve(self, command: str) -> None:
        """Start it, as a terminal would: in a process group of its own. Waits until it can answer."""
        self.stop_server()
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise BlockError(f"the server does not answer:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.1)

    def stop_server(self) -> None:
        """By Ctrl-C. Raises BlockError if that does not end it."""
        server, self._server = self._server, None
        if server is None or server.poll() is not None:
            return
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            raise BlockError("Ctrl-C does not end the server") from None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def environment(self) -> dict[str, str]:
        """Nothing of ours but what finds programs and models; no key of anybody's."""
        return {
            "PATH": f"{self.folder}/.venv/bin:{os.environ['PATH']}",
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            "MODELS_DIR": str(Settings.from_env(os.environ).models_dir.expanduser()),
            "GATEWAY_PORT": str(self.port),
        }


def command_for(language: str, text: str, packages: Sequence[str]) -> list[str]:
    """A shell, Python or Node that finds these packages."""
    if language == "js":
        folder = installed(["npm", "install", "--silent", "--no-audit", "--no-fund"], packages)
        script = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.mjs"
        script.write_text(text)  # packages are looked for beside it
        return ["node", str(script)]
    bin_folder = installed([str(Path("bin", "pip")), "install", "--quiet"], packages) / "bin" if packages else None
    if language == "sh":
        path = f'PATH="{bin_folder}:$PATH"\n' if bin_folder else ""
        return ["bash", "-euo", "pipefail", "-c", path + text]
    return [str(bin_folder / "python") if bin_folder else sys.executable, "-c", text]


def installed(install: Sequence[str], packages: Sequence[str]) -> Path:
    """A folder with these packages, made once per machine. `install` is called in it."""
    name = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gguf-on-runpod"
    folder = home / f"docs-{name}"
    if not (folder / "is-complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if install[0] != "npm":
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        done = subprocess.run([*install, *packages], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BlockError(f"{' '.join(packages)} cannot be installed:\n{done.stderr}")
        (folder / "is-complete").touch()
    return folder


def copy_repository(folder: Path) -> None:
    """What git has, with the working tree's changes, and .venv. The files are older than that: make sets up nothing."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    set_up = (ROOT / ".venv" / ".installed").stat().st_mtime - 1
    for name in filter(None, listed.stdout.split("\0")):
        if (source := ROOT / name).is_file():  # a deleted one is still listed
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            os.utime(target, (set_up, set_up))
    shutil.copy(ROOT / COMPILED, folder / COMPILED)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
