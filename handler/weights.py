"""From settings to a model's weights in memory: the part of a start that everything else can overlap with.

Imports llama.cpp and as little else as can be: what is imported here delays the load.
"""

# ruff: noqa: PLC0415  # numpy is imported only where weights are expanded

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from handler.cpu_quota import num_usable_cores
from handler.engine.llama.backend import llama_version, start_llama
from handler.engine.llama.file_check import FileCheck
from handler.engine.llama.model import LlamaModel
from handler.engine.model_facts import offload
from handler.errors import ModelError
from handler.models.adapters import locate_adapters
from handler.models.checked import mark_of, note
from handler.models.locate import locate
from handler.models.projector import locate_projector
from handler.models.source import parts_of
from handler.progress import Progress
from handler.settings import Settings
from handler.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """A model in memory with its adapters, the first file that it came from, and how long that took so far."""

    path: Path
    model: LlamaModel
    load_time: Stopwatch
    adapters: Mapping[str, Path]  # the file of each, by name
    projector: Path | None = None  # the file by which the model sees images


def load_weights(settings: Settings, waits: Callable[[], None] = lambda: None) -> Weights:
    """Find or download the model and its adapters and load them. Blocks; raises ModelError or ConfigError.

    `waits` is called when little is left for Python to do here, so that other threads may take the GIL.
    """
    path = locate(settings, waits)
    projector = locate_projector(settings, path)
    load_time = Stopwatch()
    check = _start_check(path, settings)
    start_llama()
    load_time.lap("devices")
    if check:
        waits()
        check.require()
        load_time.lap("check")
    with Progress(f"loading {path.name}", _num_bytes_of(path)) as progress:
        waits()
        model = _load(path, settings, progress.share)
    load_time.lap("model")
    return Weights(path, model, load_time, _load_adapters(model, settings), projector)


def parts_at(path: Path) -> list[Path]:
    """All files of the model whose first is this."""
    return [path.with_name(name) for name in parts_of(path.name)]


def _load_adapters(model: LlamaModel, settings: Settings) -> dict[str, Path]:
    """Before the model has a context, as llama.cpp wants it. Raises ModelError or ConfigError; the model is closed."""
    try:
        paths = locate_adapters(settings)
        model.load_adapters(paths)
    except BaseException:
        model.close()
        raise
    return paths


def _load(path: Path, settings: Settings, report: Callable[[float], None]) -> LlamaModel:
    """As WEIGHTS says. Raises ModelError."""
    if settings.weights != "16bit":
        return LlamaModel(path, offload(settings), report)
    from handler.engine.llama.expanded_file import ExpandedFile

    with closing(ExpandedFile(parts_at(path), num_usable_cores())) as expanded:
        log.info("%d matrices are expanded to 16 bits, %.1f GB in all", expanded.num_expanded, expanded.size / 1e9)
        return LlamaModel(path, offload(settings), report, source=expanded)


def _num_bytes_of(path: Path) -> int:
    """Of all parts of the model that are there."""
    return sum(part.stat().st_size for part in parts_at(path) if part.exists())


class _Check(NamedTuple):
    """A try in a child process, which runs while this one finds its devices."""

    path: Path
    mark: Path
    child: FileCheck

    def require(self) -> None:
        """Wait for it, and leave a mark. Raises ModelError."""
        if reason := self.child.reason():
            raise ModelError(f"llama.cpp cannot load {self.path}: {reason}")
        note(self.mark)


def _start_check(path: Path, settings: Settings) -> _Check | None:
    """None for a file that was found to load before, by this llama.cpp."""
    try:
        mark = mark_of(path, settings.models_dir, llama_version())
        return None if mark.exists() else _Check(path, mark, FileCheck(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be checked: {error.strerror}.") from error
