"""From settings to a model's weights in memory: the part of a start that everything else can overlap with.

Imports llama.cpp and as little else as can be: what is imported here delays the load.
"""

# ruff: noqa: PLC0415  # numpy is imported only where weights are expanded

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import NamedTuple

from handler.cpu_quota import num_usable_cores, usable_memory
from handler.engine.llama.backend import llama_version, start_llama, supports_gpu
from handler.engine.llama.c_stream import CStream
from handler.engine.llama.file_check import FileCheck
from handler.engine.llama.model import LlamaModel
from handler.engine.model_facts import offload
from handler.errors import ModelError
from handler.models.adapters import locate_adapters
from handler.models.arriving import ArrivingModel
from handler.models.checked import mark_of, note
from handler.models.locate import locate_or_fetch
from handler.models.projector import locate_projector
from handler.models.read_ahead import ReadAhead, is_cold
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
    found = locate_or_fetch(settings)
    if isinstance(found, ArrivingModel):
        waits()
        with closing(found.arrival):
            return _load_arriving(found, settings) or _load_file(found.path(), settings, waits)
    return _load_file(found, settings, waits)


def _load_file(path: Path, settings: Settings, waits: Callable[[], None]) -> Weights:
    projector = locate_projector(settings, path)
    with _read_ahead(path, settings):
        return _load_checked(path, projector, settings, waits)


def _load_checked(path: Path, projector: Path | None, settings: Settings, waits: Callable[[], None]) -> Weights:
    load_time = Stopwatch()
    check = _start_check(path, settings)
    waits()
    start_llama()
    load_time.lap("devices")
    if check:
        check.require()
        load_time.lap("check")
    with Progress(f"loading {path.name}", _num_bytes_of(path)) as progress:
        model = _load(path, settings, progress.share)
    load_time.lap("model")
    return Weights(path, model, load_time, _load_adapters(model, settings), projector)


def _load_arriving(arriving: ArrivingModel, settings: Settings) -> Weights | None:
    """While it is downloaded. None where that cannot be, or has failed: it is loaded when it is there, or the download
    says why it is not. Raises ModelError where what was downloaded is not what was to come."""
    if settings.weights == "16bit" or not CStream.is_supported():
        return None
    head = arriving.head()
    if head is None or not _has_room_for(arriving.arrival.size) or not _is_readable(head, arriving.arrival.size):
        return None
    load_time = Stopwatch()
    log.info("the model is loaded while it is downloaded")
    start_llama()
    try:
        model = LlamaModel(Path(arriving.arrival.name), offload(settings), source=arriving.arrival)
    except ModelError as error:
        log.info("the model is loaded when it is there: %s", error)
        return None
    load_time.lap("download and model")
    try:
        path = arriving.path()
        load_time.lap("checks")
        note(mark_of(path, settings.models_dir, llama_version()))
        projector = locate_projector(settings, path)
    except BaseException:
        model.close()
        raise
    return Weights(path, model, load_time, _load_adapters(model, settings), projector)


def _read_ahead(path: Path, settings: Settings) -> AbstractContextManager[object]:
    """Of what is mapped; expanded weights are read by threads of their own. Not where the page cache might not hold it,
    and what comes first would be gone again."""
    if settings.weights == "16bit" or _num_bytes_of(path) > usable_memory() * 3 // 4:
        return nullcontext()
    try:
        parts = parts_at(path)
        return ReadAhead(parts) if any(map(is_cold, parts)) else nullcontext()
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _has_room_for(num_bytes: int) -> bool:
    """Whether weights may be read into memory of their own. Without a GPU a file that is there is mapped instead, and
    the memory is the page cache's, to be had back any time."""
    return supports_gpu() or num_bytes <= usable_memory() // 2


def _is_readable(head: bytes, num_bytes: int) -> bool:
    """Whether llama.cpp can read the file that begins so, tried in a child with a file of this length in memory."""
    file = os.memfd_create("model")
    try:
        os.truncate(file, num_bytes)
        os.pwrite(file, head, 0)
        return not FileCheck(Path(f"/proc/{os.getpid()}/fd/{file}")).reason()
    finally:
        os.close(file)


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
