"""The wheel in a fresh environment: installed without a compiler, started by its command, a chat through it."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tools import ROOT, output_of

MAX_BYTES = 90_000_000  # of all that is installed, with bytecode; it was 86.3 MB when this was written
MAX_SECONDS = 1.0  # of computing until it answers, the third time that it starts
OF_VENV = ("pip", "setuptools", "pkg_resources")  # what the environment itself brings
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Paris"}}], "usage": {"total_tokens": 3}}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    output_of(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    output_of(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    output_of(python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", f"{wheel}[gateway]")
    return folder


def test_is_complete_and_small(environment: Path) -> None:
    """Nothing was compiled, nothing is missing, and it fits a small image."""
    python = environment / "venv" / "bin" / "python"
    output_of(python, "-m", "pip", "check")
    output_of(python, "-m", "compileall", "-q", environment / "venv" / "lib")
    packages = next((environment / "venv" / "lib").glob("python*/site-packages"))
    files = [
        path for path in packages.rglob("*") if path.is_file() and path.relative_to(packages).parts[0] not in OF_VENV
    ]

    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_bill_of_materials(environment: Path) -> None:
    """A release says what the gateway installs: all of it, with versions, as the tool in the workflow reads it."""
    python = environment / "venv" / "bin" / "python"
    listed = json.loads(output_of(python, "-m", "pip", "list", "--format", "json"))
    bill = json.loads(output_of("syft", "scan", f"dir:{environment / 'venv' / 'lib'}", "-q", "-o", "cyclonedx-json"))
    installed, found = (
        {(re.sub(r"[-_.]+", "-", one["name"]).lower(), one["version"]) for one in each if "version" in one}
        for each in (listed, bill["components"])
    )

    assert bill["bomFormat"] == "CycloneDX"
    assert "gguf-on-runpod" in {name for name, _ in installed}
    assert installed <= found


def test_chat_through_the_command(environment: Path) -> None:
    """Outside of the source folder, which would be imported otherwise."""
    with target() as address:
        process = start(environment, {"OPENAI_BASE_URL": f"{address}/v1"})
        try:
            url = address_of(process)
            assert b"/ui/app.js" in read(f"{url}/")
            body = {"model": "any", "messages": [{"role": "user", "content": "The capital of France?"}]}
            answer = json.loads(read(f"{url}/v1/chat/completions", json.dumps(body).encode()))
            assert answer["choices"][0]["message"]["content"] == "Paris"
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_starts_within_a_second(environment: Path) -> None:
    """The third time. Seconds of its own processor time: others may share the machine."""
    for _ in range(3):
        process = start(environment, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
        try:
            assert read(f"{address_of(process)}/healthz")
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        finally:
            process.terminate()
            process.wait(30)

    assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") <= MAX_SECONDS


def test_chat_says_what_it_needs(environment: Path) -> None:
    command = [str(environment / "venv" / "bin" / "llama-gateway"), "chat"]
    done = subprocess.run(command, cwd=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (
        1, "error: The chat needs one more package: pip install 'gguf-on-runpod[chat]'.\n",
    )  # fmt: skip


def start(environment: Path, more: dict[str, str]) -> subprocess.Popen[str]:
    variables = {"PATH": os.environ["PATH"], "HOME": str(environment), "PYTHONSAFEPATH": "1", **more}
    command = [str(environment / "venv" / "bin" / "llama-gateway"), "serve", "--port", "0"]
    return subprocess.Popen(
        command, cwd=environment, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def address_of(process: subprocess.Popen[str]) -> str:
    """What it prints when it listens."""
    assert process.stdout is not None
    deadline = time.monotonic() + 30
    printed = ""
    while "http://127.0.0.1:" not in printed:
        line = process.stdout.readline()
        assert line, printed
        assert time.monotonic() < deadline, printed
        printed += line
    return "http://127.0.0.1:" + printed.partition("http://127.0.0.1:")[2].split("/")[0].split()[0]


def read(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
        return content


@contextmanager
def target() -> Iterator[str]:
    """What speaks as much of OpenAI's API as this needs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            content = json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
