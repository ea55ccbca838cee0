"""What may import what, who reads the environment, and how long a file may be."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKER = sorted((ROOT / "handler").rglob("*.py"))
GATEWAY = sorted((ROOT / "local_gateway").rglob("*.py"))
MAX_LINES = 400
ENVIRONMENT = ("environ", "environb", "getenv", "putenv")

# Per program: a room (a package, or a file beside the packages) may import itself and these. `__main__` may import
# all. A room that is missing here fails the test.
WORKER_ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "settings": {"errors"},
    "stopwatch": set(),
    "cpu_quota": set(),
    "deferred_package": set(),
    "progress": set(),
    "engine": {"engine.cache", "engine.speculative", "engine.structured", "settings", "errors", "stopwatch"},
    "engine.cache": {"engine", "errors"},
    "engine.structured": {"engine", "errors"},
    "engine.speculative": {"engine", "engine.cache", "settings", "errors", "stopwatch"},
    "engine.llama": {
        "deferred_package",
        "stopwatch",
        "engine",
        "engine.cache",
        "engine.structured",
        "engine.speculative",
        "embedding",
        "settings",
        "errors",
    },
    "embedding": {"engine", "settings", "errors"},
    "chat": {"settings", "errors"},
    "media": {"errors"},
    "models": {"progress", "settings", "errors"},
    "api": {"chat", "deferred_package", "embedding", "engine", "engine.structured", "media", "settings", "errors"},
    "weights": {"cpu_quota", "engine", "engine.llama", "models", "progress", "settings", "errors", "stopwatch"},
    "loading_thread": {"engine.llama", "loading", "settings", "weights"},
    "loading": {
        "cpu_quota",
        "embedding",
        "engine",
        "engine.llama",
        "engine.speculative",
        "engine.structured",
        "settings",
        "errors",
        "stopwatch",
        "weights",
    },
    "worker": {"api", "embedding", "engine"},
    "assembly": {"worker", "api", "chat", "engine", "engine.llama", "loading", "settings", "errors"},
    "health": {"embedding", "engine", "settings", "errors"},
    "job_run": {"api", "settings", "errors"},
    "job": {"job_run", "api", "settings", "errors"},
    "answer_check": {"job", "job_run", "errors"},
    "local": {"api", "job", "job_run", "settings", "errors"},
    "http": {"api", "deferred_package", "worker", "embedding", "engine", "settings", "errors", "stopwatch"},
}
GATEWAY_ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "config": {"errors"},
    "wire": {"config", "errors"},
    "backends": {"wire", "config", "errors"},
    "backends.runpod": {"backends", "wire", "config", "errors"},
    "backends.local": {"backends", "wire", "config", "errors"},
    "accounts": {"wire", "config", "errors"},
    "storage": {"accounts", "errors"},
    "telemetry": {"accounts", "backends", "config", "errors"},
    "edge": {"accounts", "wire", "config", "errors"},
    "routing": {"edge", "accounts", "telemetry", "backends", "wire", "config", "errors"},
    "sharing": {"routing", "edge", "wire", "config", "errors"},
    "web": {
        *("gateway", "routing", "edge", "storage", "telemetry", "accounts", "backends", "wire", "config", "errors"),
    },
    "server": {"web", "gateway", "routing", "edge", "storage", "telemetry", "accounts", "wire", "config", "errors"},
    "commands": {"server", "gateway", "routing", "storage", "telemetry", "accounts", "backends", "config", "errors"},
}
GATEWAY_ROOMS["gateway"] = set(GATEWAY_ROOMS) - {"web", "server", "commands"}
WORKER_ROOMS["__main__"], GATEWAY_ROOMS["__main__"] = set(WORKER_ROOMS), set(GATEWAY_ROOMS)
PROGRAMS = {"handler": (WORKER, WORKER_ROOMS), "local_gateway": (GATEWAY, GATEWAY_ROOMS)}

# Third-party packages that only these files and folders may import.
WORKER_OWNERS: dict[str, tuple[str, ...]] = {
    "llama_cpp": ("handler/engine/llama/",),
    "llguidance": ("handler/engine/structured/",),  # imported when the first schema comes
    "runpod": ("handler/__main__.py", "handler/health.py"),
    "openai": ("handler/api/openai_types.py",),
    "jinja2": ("handler/chat/",),
    "starlette": ("handler/http/",),
    "uvicorn": ("handler/http/serve.py", "handler/http/limits.py"),
}
GATEWAY_OWNERS: dict[str, tuple[str, ...]] = {
    "aiohttp": ("local_gateway/backends/http.py",),
    "openai": ("local_gateway/commands/chat.py",),  # drops unknown fields, so it is kept out of every request's way
    "opentelemetry": ("local_gateway/telemetry/otel.py",),
    "prometheus_client": ("local_gateway/telemetry/metrics.py",),
    "rich": ("local_gateway/commands/chat.py",),  # in the extra `chat` only
    "sqlalchemy": ("local_gateway/storage/",),
    "uvicorn": ("local_gateway/server/serve.py", "local_gateway/edge/head_limits.py"),
    "ruamel": ("local_gateway/config/yaml_document.py",),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str, rooms: dict[str, set[str]]) -> str:
    """The longest listed prefix: `handler.engine.llama.draw` is in `engine.llama`, `handler.api.chat` in `api`."""
    parts = module.split(".")[1:] or ["__init__"]
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in rooms:
            return room
    raise AssertionError(f"{module} is in no room of the table")


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The full names of all modules a file imports, wherever in it."""
    return frozenset(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where they lead"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", [*WORKER, *GATEWAY], ids=name_of)
def test_rooms_know_only_their_neighbours(path: Path) -> None:
    """Imports between rooms go one way, along the tables above."""
    program = path.relative_to(ROOT).parts[0]
    _, rooms = PROGRAMS[program]
    room = room_of(module_of(path), rooms)
    imported = {room_of(module, rooms) for module in imports_of(path) if module.split(".")[0] == program}

    assert imported <= rooms[room] | {room, "__init__"}


@pytest.mark.parametrize(
    ("files", "package", "owners"),
    [
        *((WORKER, package, owners) for package, owners in WORKER_OWNERS.items()),
        *((GATEWAY, package, owners) for package, owners in GATEWAY_OWNERS.items()),
    ],
    ids=[*WORKER_OWNERS, *GATEWAY_OWNERS],
)
def test_packages_have_owners(files: list[Path], package: str, owners: tuple[str, ...]) -> None:
    """llama.cpp, the SDK, OpenAI's types, the web servers, the database are each known in one place."""
    users = [name_of(path) for path in files if any(module.split(".")[0] == package for module in imports_of(path))]

    assert users
    assert all(user.startswith(owners) for user in users), users


def test_two_programs() -> None:
    """Worker and gateway meet only on OpenAI's wire: each can be deployed without the other."""
    for files, other in ((WORKER, "local_gateway"), (GATEWAY, "handler")):
        assert not [
            name_of(path) for path in files if any(module.split(".")[0] == other for module in imports_of(path))
        ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_import_circle(program: str) -> None:
    """No file needs one that needs it, within a room or across rooms."""
    files, _ = PROGRAMS[program]
    needs = {module_of(path): {module for module in map(file_of, imports_of(path)) if module} for path in files}
    while leaves := [module for module, needed in needs.items() if not needed & needs.keys()]:
        for leaf in leaves:
            del needs[leaf]

    assert not needs


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_of(name: str) -> str:
    """The module of ours that an imported name belongs to; empty for third-party packages."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        if parts[0] in PROGRAMS and (ROOT.joinpath(*parts[:length]).with_suffix(".py")).exists():
            return ".".join(parts[:length])
    return ""


def test_environment_has_one_reader() -> None:
    """A module that reads it elsewhere has settings that are not documented. A worker is given its environment."""
    readers = {
        name_of(path)
        for path in [*WORKER, *GATEWAY]
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT)
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }

    assert readers <= {
        *("handler/settings.py", "handler/__main__.py"),
        *("local_gateway/commands/cli.py", "local_gateway/backends/local/backend.py"),
    }


@pytest.mark.parametrize("path", [*WORKER, *GATEWAY], ids=name_of)
def test_files_are_short(path: Path) -> None:
    """A file is read at one sitting."""
    assert len(path.read_text().splitlines()) <= MAX_LINES
