"""MODEL -> the path of a GGUF file on this machine, or of its first part if it is split.

Looked for in this order:

1. the path as given
2. RunPod's cached model:    VOLUME_DIR/huggingface-cache/hub/models--org--name/snapshots/COMMIT/...
3. the network volume:       VOLUME_DIR/models/...
4. this machine's downloads: MODELS_DIR/...
5. the network, which puts it into MODELS_DIR

Both directories of models (3 and 4) are laid out alike, so one can be copied to the other:

    some/file.gguf               for MODEL=some/file.gguf, put there by hand
    org/name/REVISION/...        a Hugging Face repository; REVISION as in MODEL, else `main`
    urls/HASH/file.gguf          a URL, by the first 16 hexadecimal digits of its sha256

A file that is there is used as it is: a branch that has moved since is not noticed. Checksums are verified after a
download only; later starts look at the header, which also tells a truncated file. RunPod's cache holds all files of a
repository, the directories of models perhaps only some: so where MODEL names no quantisation, those answer only with
a `Q4_K_M`, and otherwise Hugging Face is asked what there is to choose from.
"""

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from handler.errors import ModelError
from handler.models.arriving import ArrivingModel
from handler.models.gguf import check_gguf
from handler.models.source import (
    DEFAULT_QUANT,
    DEFAULT_REVISION,
    DEMO,
    HubModel,
    LocalFile,
    Source,
    WebFile,
    choices,
    first_part,
    parse,
    parts_of,
)
from handler.settings import Settings

log = logging.getLogger(__name__)


def locate(settings: Settings) -> Path:
    """Find the model or download it; blocks until it is there. Raises ConfigError or ModelError."""
    found = locate_or_fetch(settings)
    if isinstance(found, Path):
        return found
    with closing(found.arrival):
        return found.path()


def locate_or_fetch(settings: Settings) -> Path | ArrivingModel:
    """Find the model, or begin to download it. Raises ConfigError or ModelError."""
    source = parse(settings.model)
    if path := _find(source, settings):
        return _checked(path)
    if isinstance(source, LocalFile):
        raise ModelError(_not_found(source.path, settings))
    # Imported here because an HTTP client takes longer to import than all else that a start with its model needs.
    from handler.models.fetch import fetch  # noqa: PLC0415

    return ArrivingModel(lambda arrival: _checked(fetch(source, settings, arrival)))


def _checked(path: Path) -> Path:
    _check_parts(path)
    log.info("model file: %s", path)
    return path


def _find(source: Source, settings: Settings) -> Path | None:
    """Wherever it may be on this machine."""
    try:
        return (
            _as_given(source, settings.model)
            or _cached_by_runpod(source, settings.volume_dir)
            or _kept(source, settings.volume_dir / "models")
            or _kept(source, settings.models_dir)
        )
    except OSError as error:
        raise ModelError(f"Cannot look for the model in {error.filename}: {error.strerror}.") from error


def _as_given(source: Source, model: str) -> Path | None:
    """What looks like a repository's file may be a path. A URL never is, and may be too long to be asked for."""
    never = source == DEMO or isinstance(source, WebFile)
    return None if never else _existing(Path(first_part(model)))


def _cached_by_runpod(source: Source, volume_dir: Path) -> Path | None:
    if not isinstance(source, HubModel):
        return None
    snapshot = _snapshot(volume_dir / "huggingface-cache" / "hub", source)
    path = snapshot and _only_choice(snapshot, source)
    if snapshot and not path:
        log.warning("RunPod's cached model %s has not exactly one file for MODEL; looking elsewhere", snapshot)
    return path


def _snapshot(cache: Path, source: HubModel) -> Path | None:
    """The directory of the revision in RunPod's cache, which may have lower-cased the repository's name."""
    repo = _child(cache, f"models--{source.repo.replace('/', '--')}")
    if not repo:
        return None
    snapshots = {path.name: path for path in (repo / "snapshots").glob("*")}
    ref = repo / "refs" / source.revision
    if ref.is_file():
        return snapshots.get(ref.read_text().strip())
    if source.revision == DEFAULT_REVISION and len(snapshots) == 1:
        return next(iter(snapshots.values()))
    return snapshots.get(source.revision)


def _child(directory: Path, name: str) -> Path | None:
    children = directory.iterdir() if directory.is_dir() else ()
    return next((child for child in children if child.name.casefold() == name.casefold()), None)


def _kept(source: Source, directory: Path) -> Path | None:
    """In a directory of models."""
    directory = directory.expanduser()
    match source:
        case LocalFile(path):
            return _existing(directory / path)
        case WebFile():
            parts = [Path(part) for part in parts_of(str(directory / source.path))]
            return parts[0] if all(part.is_file() for part in parts) else None
        case HubModel():
            certain = source if source.file or source.quant else replace(source, quant=DEFAULT_QUANT)
            return _only_choice(directory / source.directory, certain)


def _only_choice(directory: Path, source: HubModel) -> Path | None:
    """The one model that fits, if all its parts are there."""
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*.gguf") if path.is_file()}
    found = choices(names, source)
    return directory / found[0] if len(found) == 1 and names.issuperset(parts_of(found[0])) else None


def _existing(path: Path) -> Path | None:
    path = path.expanduser()
    return path if path.is_file() else None


def _check_parts(first: Path) -> None:
    for part in parts_of(str(first)):
        try:
            check_gguf(Path(part))
        except ModelError as error:
            raise ModelError(f"{error} Put a good one in its place, or delete it to have it downloaded.") from error


def _not_found(path: Path, settings: Settings) -> str:
    if path.expanduser().is_dir():
        return f"MODEL={path} is a directory: name a .gguf file in it."
    if path.is_absolute() or path.parts[0] == "~":
        return f"MODEL={path}: there is no such file. Check the path, or that the volume with it is mounted."
    where = ", ".join(map(str, (Path.cwd(), settings.volume_dir / "models", settings.models_dir)))
    return f"MODEL={path}: there is no such file in {where}. Check the path, or name a model to download."
