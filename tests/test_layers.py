"""What may import what, who reads the environment, and how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "handler").rglob("*.py"))
GATEWAY_FILES = sorted((ROOT / "local_gateway").rglob("*.py"))
GATEWAY_FILES = sorted((ROOT / "local_gateway").rglob("*.py"))
MAX_LINES = 400
ENVIRONMENT = ("environ", "environb", "getenv", "putenv")

# A layer is a package or a file of handler/. Each may import itself and these; `__main__` may import all.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "settings": {"errors"},
    "timing": set(),
    "cores": set(),
    "engine": {"settings", "errors", "timing"},
    "chat": {"settings", "errors"},
    "models": {"settings", "errors"},
    "api": {"chat", "engine", "settings", "errors"},
    "loading": {"cores", "engine", "models", "settings", "errors"},
    "worker": {"api", "chat", "engine", "loading", "settings", "errors"},
    "health": {"engine", "settings", "errors"},
    "job_run": {"api", "settings", "errors"},
    "job": {"job_run", "api", "settings", "errors"},
    "expect": {"job", "job_run", "errors"},
    "local": {"api", "job", "job_run", "settings", "errors"},
    "metrics": {"engine"},
    "http": {"api", "metrics", "worker", "settings", "errors"},
    "serve": {"http", "loading", "worker", "engine", "settings", "errors", "timing"},
}
MAY_IMPORT["__main__"] = set(MAY_IMPORT)

LLAMA_FILES = (
    "batch_buffer",
    "llama_context",
    "memory_facts",
    "model_runner",
    "native",
    "sampler",
    "sampling",
    "vocabulary",
)

# Packages that only these files and folders may import.
OWNERS: dict[str, tuple[str, ...]] = {
    "llama_cpp": tuple(f"handler/engine/{name}.py" for name in LLAMA_FILES),
    "llguidance": ("handler/engine/grammar.py", "handler/engine/schema_check.py"),  # imported when a schema comes
    "runpod": ("handler/__main__.py", "handler/health.py"),
    "openai": ("handler/api/openai_types.py",),
    "jinja2": ("handler/chat/",),
    "starlette": ("handler/http.py",),
    "uvicorn": ("handler/serve.py",),
}

GATEWAY_OWNERS: dict[str, tuple[str, ...]] = {
    "aiohttp": ("local_gateway/backends/http.py",),
    "openai": ("local_gateway/chat_client.py",),  # it drops fields it does not know: never in the way of a request
    "opentelemetry": ("local_gateway/otel.py",),
    "prometheus_client": ("local_gateway/metrics.py",),
    "rich": ("local_gateway/chat", "local_gateway/listing.py"),
    "sqlalchemy": ("local_gateway/database.py", "local_gateway/store.py", "local_gateway/tables.py"),
    "uvicorn": ("local_gateway/serve.py", "local_gateway/http_protocol.py"),
    "yaml": ("local_gateway/config_document.py",),
}
# What a backend may know of the gateway: its own wire, never clients, keys, other targets, retries and money.
BACKENDS_MAY_IMPORT = {"__init__", "backends", "errors", "settings", "sse"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_of(module: str) -> str:
    """`handler.api.chat` belongs to `api`."""
    return [*module.split("."), "__init__"][1]


def imports_of(path: Path) -> Iterator[str]:
    """The full names of all modules a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where they lead"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    """The edges know the API, the API knows chat and engine, and these two know nothing of each other."""
    layer = path.relative_to(ROOT / "handler").parts[0].removesuffix(".py")
    imported = {layer_of(module) for module in imports_of(path) if module.split(".")[0] == "handler"}

    assert imported <= MAY_IMPORT[layer] | {layer}


@pytest.mark.parametrize(
    ("files", "package", "owners"),
    [
        *((FILES, package, owners) for package, owners in OWNERS.items()),
        *((GATEWAY_FILES, package, owners) for package, owners in GATEWAY_OWNERS.items()),
    ],
    ids=[*OWNERS, *GATEWAY_OWNERS],
)
def test_packages_have_owners(files: list[Path], package: str, owners: tuple[str, ...]) -> None:
    """llama.cpp, the SDK, OpenAI's types, the web servers, the database are each known in one place."""
    users = [name_of(path) for path in files if any(module.split(".")[0] == package for module in imports_of(path))]

    assert users
    assert all(user.startswith(owners) for user in users), users


def test_two_programs() -> None:
    """Worker and gateway meet only on OpenAI's wire: each can be deployed without the other."""
    for files, other in ((FILES, "local_gateway"), (GATEWAY_FILES, "handler")):
        assert not [
            name_of(path) for path in files if any(module.split(".")[0] == other for module in imports_of(path))
        ]


@pytest.mark.parametrize(
    "path", [path for path in GATEWAY_FILES if path.parent.name == "backends"], ids=lambda path: str(path.stem)
)
def test_backends_know_their_wire(path: Path) -> None:
    """A new type of target is one file that needs nothing of the rest."""
    imported = {layer_of(module) for module in imports_of(path) if module.split(".")[0] == "local_gateway"}

    assert imported <= BACKENDS_MAY_IMPORT


def test_gateway_imports_go_one_way() -> None:
    """No file of the gateway needs one that needs it."""
    needs = {module_of(path): {module for module in map(file_of, imports_of(path)) if module} for path in GATEWAY_FILES}
    while leaves := [module for module, needed in needs.items() if not needed & needs.keys()]:
        for leaf in leaves:
            del needs[leaf]

    assert not needs


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def file_of(name: str) -> str:
    """The gateway's module that an imported name belongs to; empty if it is somebody else's."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        if parts[0] == "local_gateway" and (ROOT.joinpath(*parts[:length]).with_suffix(".py")).exists():
            return ".".join(parts[:length])
    return ""


def test_environment_has_one_reader() -> None:
    """Who else would look there has settings nobody documents. A worker is given its environment."""
    readers = {
        name_of(path)
        for path in [*FILES, *GATEWAY_FILES]
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT)
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }

    assert readers <= {
        *("handler/settings.py", "handler/__main__.py"),
        *("local_gateway/cli.py", "local_gateway/backends/local.py"),
    }


@pytest.mark.parametrize("path", [*FILES, *GATEWAY_FILES], ids=name_of)
def test_files_are_short(path: Path) -> None:
    """A file is read at one sitting."""
    assert len(path.read_text().splitlines()) <= MAX_LINES
