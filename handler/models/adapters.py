"""Where adapters lie on disk. They are named, found and downloaded as models are."""

from pathlib import Path

from handler.errors import ConfigError, ModelError
from handler.models.locate import locate
from handler.settings import Settings


def locate_adapters(settings: Settings) -> dict[str, Path]:
    """Find each adapter or download it; blocks until all are there. Raises ConfigError or ModelError."""
    return {name: _locate(name, source, settings) for name, source in settings.loras}


def _locate(name: str, source: str, settings: Settings) -> Path:
    try:
        return locate(settings.model_copy(update={"model": source}))
    except ConfigError as error:
        raise ConfigError(f"LORAS, adapter {name!r}, which is named as a model is: {error}") from error
    except ModelError as error:
        raise ModelError(f"LORAS, adapter {name!r}, which is found as a model is: {error}") from error
