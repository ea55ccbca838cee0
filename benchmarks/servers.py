"""This worker and its peers as processes: the same model, the same cache, the same number of chats at once; or, where a
name says "defaults", nothing but the model, as a first user would start them."""

import functools
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gguf-on-runpod/llama.cpp"  # of peers.sh
PATIENCE = 180.0  # seconds until a server that does not answer is given up
STEP = 256  # a stream's length is a multiple of this
LEAST_CACHE = 8192  # tokens
NEVER = -1000.0  # added to the logit of a token that shall not be drawn
WORKER, LLAMA_SERVER, LLAMA_CPP_PYTHON = "this worker", "llama-server", "llama-cpp-python"
STREAMS, UNIFIED = f"{LLAMA_SERVER} -bs", f"{LLAMA_SERVER} -kvu"  # its two best modes
FORMER = "former worker"  # of the checkout that FORMER_WORKER names, with this interpreter
WORKER_DEFAULTS, LLAMA_SERVER_DEFAULTS = f"{WORKER} (defaults)", f"{LLAMA_SERVER} (defaults)"
TUNING = ("N_CTX", "MAX_NUM_SEQS", "MAX_MODEL_LEN", "MAX_QUEUE", "N_THREADS")  # that a first user leaves alone
EXAMPLE_SERVER = "llama_cpp_python_server.py"


class Load(NamedTuple):
    """What all servers are started with."""

    model: Path
    n_ctx: int
    concurrency: int
    threads: int
    folder: Path  # that peers.sh fills
    logs: Path
    longest: int = 0  # tokens of one chat, if they are known


def cells(num_tokens: int) -> int:
    """Tokens of a stream that has room for so many."""
    return -(-num_tokens // STEP) * STEP


def room_for(longest: int, chats: int) -> int:
    """Tokens of a cache in which each chat has a stream, and, as the worker wants it, an eighth more finished ones."""
    return max(LEAST_CACHE, cells(longest) * (chats + -(-chats // 8)))


class Start(NamedTuple):
    """What starts a server, and how to speak to it."""

    arguments: list[str]
    environment: dict[str, str]  # beside ours
    health: str = "/health"
    more: dict[str, Any] | None = None  # that each request to it says, beside what all say
    without: tuple[str, ...] = ()  # of our environment
    folder: Path = ROOT  # where it is started


@dataclass
class Server:
    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    health: str
    more: dict[str, Any] | None
    started: float  # of time.perf_counter, when its process was spawned
    command: str  # with what it has in its environment

    @property
    def peak_megabytes(self) -> float:
        """The most main memory the process has held; the model's pages are in it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return int(lines["VmHWM"].split()[0]) / 1000

    def wait(self) -> None:
        """Until it answers. Raises NotHereError."""
        while time.perf_counter() - self.started < PATIENCE and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + self.health, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise self.did_not_start()

    def did_not_start(self) -> "NotHereError":
        return NotHereError(f"{self.name} did not start: {self.log.read_text(errors='replace')[-500:]}")


class NotHereError(Exception):
    """Why a peer cannot be started on this machine."""


def program(name: str, folder: Path) -> str:
    """Where one of llama.cpp's programs is: where the environment says (LLAMA_SERVER, LLAMA_BATCHED_BENCH), in the
    folder that peers.sh fills, or in PATH. Raises NotHereError."""
    variable = name.upper().replace("-", "_")
    places = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    found = os.environ.get(variable) or shutil.which(name, path=places)
    if not found or not Path(found).exists():
        raise NotHereError(
            f"{name} is neither in PATH nor in {folder / 'bin'}; benchmarks/peers.sh makes it, or {variable} names it"
        )
    return found


def peers_python(folder: Path) -> Path:
    """The interpreter that has the third server's packages, and matplotlib. Raises NotHereError."""
    python = folder / "environment/bin/python"
    if not python.exists():
        raise NotHereError(f"{python} is not there; benchmarks/peers.sh makes it")
    return python


def worker(load: Load, port: int) -> Start:
    settings = {
        "N_CTX": str(load.n_ctx),
        "MAX_NUM_SEQS": str(load.concurrency),
        "N_THREADS": str(load.threads),
        "MAX_QUEUE": "1000",
        **({"MAX_MODEL_LEN": str(load.longest)} if load.longest and "MAX_MODEL_LEN" not in os.environ else {}),
    }
    start = worker_defaults(load, port)
    return start._replace(environment=start.environment | settings, without=())


def former_worker(load: Load, port: int) -> Start:
    """For comparisons over time: the same start in another checkout, where builder/native.sh was run."""
    folder = os.environ.get("FORMER_WORKER", "")
    if not (Path(folder) / "handler" / "__main__.py").exists():
        raise NotHereError(f"FORMER_WORKER is no checkout of this project: '{folder}'")
    return worker(load, port)._replace(folder=Path(folder))


def worker_defaults(load: Load, port: int) -> Start:
    settings = {"MODEL": str(load.model), "LOG_LEVEL": os.environ.get("LOG_LEVEL", "WARNING")}
    return Start([sys.executable, "-m", "handler", "serve", "--port", str(port)], settings, without=TUNING)


def llama_server(load: Load, port: int, *mode: str) -> Start:
    options = {"-c": load.n_ctx, "-np": load.concurrency, "-t": load.threads, "-ngl": 999}
    start = llama_server_defaults(load, port)
    return start._replace(arguments=[*start.arguments, *_words(options), *mode])


def llama_server_streams(load: Load, port: int) -> Start:
    """A stream of the cache for each slot, and samplers on the backend."""
    return llama_server(load, port, "-bs")


def llama_server_unified(load: Load, port: int) -> Start:
    return llama_server(load, port, "-kvu")


def llama_server_defaults(load: Load, port: int) -> Start:
    return Start([program(LLAMA_SERVER, load.folder), "-m", str(load.model), "--port", str(port)], {})


def llama_cpp_python(load: Load, port: int) -> Start:
    """The server with batching among its examples: where LLAMA_CPP_PYTHON_SERVER says, with this interpreter's
    packages, or as peers.sh has put it together."""
    if named := os.environ.get("LLAMA_CPP_PYTHON_SERVER"):
        script, python, environment = Path(named), sys.executable, dict[str, str]()
    else:
        script, python = load.folder / "bin" / EXAMPLE_SERVER, str(peers_python(load.folder))
        environment = {"PYTHONPATH": str(_our_llama_cpp(load.logs))}
    if not script.exists():
        raise NotHereError(f"{script} is not there; benchmarks/peers.sh makes it")
    model = {
        "path": str(load.model),
        "n_ctx": load.n_ctx,
        "n_seq_max": load.concurrency,
        "threads": load.threads,
        "threads_batch": load.threads,
        "n_gpu_layers": -1,
        "store_logits": False,  # n_ctx rows of logits: 5 GB for the demo model
    }
    config = load.logs / "llama-cpp-python.json"
    config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": model}))
    return Start(
        [python, str(script), "-C", str(config)],
        environment,
        "/healthz",
        {"logit_bias": _never_end(python, environment.get("PYTHONPATH"), load.model)},
    )


def _our_llama_cpp(folder: Path) -> Path:
    """A folder with nothing but this interpreter's llama_cpp: the peer computes with the worker's library."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise NotHereError("llama_cpp is not installed here")
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    link = packages / "llama_cpp"
    if not link.exists():
        link.symlink_to(spec.submodule_search_locations[0])
    return packages


@functools.cache
def _never_end(python: str, packages: str | None, model: Path) -> dict[str, float]:
    """A bias against each token that ends an answer, for a server that does not know `ignore_eos`."""
    found = subprocess.run(
        [python, str(Path(__file__).with_name("end_tokens.py")), str(model)],
        env={**os.environ, **({"PYTHONPATH": packages} if packages else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise NotHereError(f"{LLAMA_CPP_PYTHON} cannot read the model: {found.stderr[-500:]}")
    return {str(token_id): NEVER for token_id in json.loads(found.stdout)}


def _words(options: dict[str, Any]) -> list[str]:
    return [str(part) for option in options.items() for part in option]


STARTS: dict[str, Callable[[Load, int], Start]] = {
    WORKER: worker,
    FORMER: former_worker,
    STREAMS: llama_server_streams,
    UNIFIED: llama_server_unified,
    LLAMA_CPP_PYTHON: llama_cpp_python,
    WORKER_DEFAULTS: worker_defaults,
    LLAMA_SERVER_DEFAULTS: llama_server_defaults,
}
TUNED = [WORKER, STREAMS, UNIFIED, LLAMA_CPP_PYTHON]  # told how many chats there will be
ALIASES = {LLAMA_SERVER: [STREAMS, UNIFIED], "defaults": [WORKER_DEFAULTS, LLAMA_SERVER_DEFAULTS]}


@contextmanager
def spawned(name: str, load: Load) -> Iterator[Server]:
    """A server that may not answer yet. Raises NotHereError."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = STARTS[name](load, port)
    log = load.logs / f"{name.replace(' ', '-')}.log"
    command = " ".join([*(f"{key}={value}" for key, value in start.environment.items()), *start.arguments])
    ours = {name: value for name, value in os.environ.items() if name not in start.without}
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            start.arguments, cwd=start.folder, env=ours | start.environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Server(name, f"http://127.0.0.1:{port}", process, log, start.health, start.more, started, command)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
