"""Runs the Tiltfile as Tilt does, but with built-in functions that only take notes.

Tilt's language is Starlark without f-strings, with `if` and `for` at the top of a file. What the built-ins answer is
what Tilt answers: real YAML, real files, kustomize's real output.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import starlark
import yaml
from tools import ROOT, output_of

PRELUDE = """
os = struct(
    getenv = _getenv, environ = {},
    path = struct(exists = _exists, basename = _basename, dirname = _dirname),
)
config = struct(define_string = _define_string, define_bool = _define_string, parse = _parse)
"""
RECORDED = ("docker_build", "k8s_yaml", "k8s_resource", "secret_settings", "warn", "allow_k8s_contexts")
STEPS = ("sync", "run", "port_forward")


class TiltFailedError(Exception):
    """The Tiltfile called `fail`."""


@dataclass
class Calls:
    """What the Tiltfile asked Tilt for, in its order: (name, positional arguments, named arguments)."""

    all: list[tuple[str, list[Any], dict[str, Any]]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    def of(self, name: str) -> list[tuple[list[Any], dict[str, Any]]]:
        return [(args, named) for called, args, named in self.all if called == name]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """All Kubernetes objects that were given to Tilt."""
        return [each for args, _ in self.of("k8s_yaml") for each in yaml.safe_load_all(args[0])]


def execute(environ: Mapping[str, str], flags: Mapping[str, str], existing: tuple[str, ...] = ()) -> Calls:
    """Run the Tiltfile. `existing` paths are there, beside those that are. Raises TiltFailedError."""
    calls = Calls()
    module = starlark.Module()

    def recorder(name: str) -> Any:
        def record(*args: Any, **named: Any) -> None:
            calls.all.append((name, list(args), dict(named)))

        return record

    def step(name: str) -> Any:
        return lambda *args, **named: {"step": name, "args": list(args), **named}

    def fail(message: str) -> None:
        raise TiltFailedError(message)

    built_ins = {
        **{name: recorder(name) for name in RECORDED},
        **{name: step(name) for name in STEPS},
        "_getenv": lambda name, default=None: environ.get(name, default),
        "_exists": lambda path: path in existing or (ROOT / path).exists(),
        "_basename": lambda path: Path(path).name,
        "_dirname": lambda path: str(Path(path).parent),
        "_define_string": lambda name, usage="": None,
        "_parse": lambda: dict(flags),
        "_fail": fail,
        "kustomize": lambda path: output_of("kubectl", "kustomize", path),
        "listdir": lambda path: sorted(str(file) for file in (ROOT / path).iterdir()),
        "read_yaml": lambda path: yaml.safe_load(Path(path).read_text()),
        "decode_yaml_stream": lambda text: list(yaml.safe_load_all(text)),
        "encode_yaml_stream": lambda objects: yaml.safe_dump_all(json.loads(json.dumps(objects))),
        "print": lambda *parts: calls.printed.append(" ".join(map(str, parts))),
    }
    for name, function in built_ins.items():
        module.add_callable(name, function)
    dialect = starlark.Dialect.extended()
    dialect.enable_f_strings = False
    text = PRELUDE + (ROOT / "Tiltfile").read_text().replace("fail(", "_fail(")
    library = starlark.Globals.extended_by([starlark.LibraryExtension.StructType])
    starlark.eval(module, starlark.parse("Tiltfile", text, dialect), library)
    return calls
