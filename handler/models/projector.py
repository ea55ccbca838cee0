"""MMPROJ -> the path of a projector's GGUF file on this machine, or none."""

from pathlib import Path

from handler.errors import ConfigError, ModelError
from handler.models.locate import locate
from handler.settings import Settings

AUTO, OFF = "auto", "off"
# Of several beside a model the first of these, which all see alike; then by name.
PREFERRED = ("f16", "bf16", "q8_0", "f32")


def locate_projector(settings: Settings, model: Path) -> Path | None:
    """As MMPROJ says: named like a MODEL and found or downloaded like one; beside the model; or none. Blocks. Raises
    ConfigError or ModelError."""
    if settings.mmproj == OFF:
        return None
    if settings.mmproj != AUTO:
        try:
            return locate(settings.model_copy(update={"model": settings.mmproj}))
        except (ConfigError, ModelError) as error:
            raise type(error)(f"MMPROJ, which is named as a MODEL is: {error}") from error
    beside = sorted(path for path in model.parent.glob("*.gguf") if "mmproj" in path.name.casefold())
    return min(beside, key=_rank, default=None)


def _rank(path: Path) -> int:
    name = path.name.casefold().replace("fp", "f")
    return next((place for place, kind in enumerate(PREFERRED) if name.endswith(f"{kind}.gguf")), len(PREFERRED))
