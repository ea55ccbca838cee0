"""From MMPROJ to a file, or none."""

from pathlib import Path

import pytest

from handler.errors import ConfigError, ModelError
from handler.models.projector import locate_projector
from handler.settings import Settings
from tests.models.model_server import make_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "model-Q4_K_M.gguf"
    path.parent.mkdir()
    path.write_bytes(make_gguf())
    return path


def located(model: Path, mmproj: str = "") -> Path | None:
    environ = {"MODEL": str(model), "MODELS_DIR": str(model.parent), "VOLUME_DIR": "/nonexistent", "MMPROJ": mmproj}
    return locate_projector(Settings.from_env(environ), model)


def put(model: Path, name: str) -> Path:
    path = model.with_name(name)
    path.write_bytes(make_gguf())
    return path


def test_none_beside_the_model(model: Path) -> None:
    """Then the model sees nothing."""
    assert located(model) is None


def test_beside_the_model(model: Path) -> None:
    """Wherever in the name it says what it is, and in 16 bits if there is a choice."""
    only = put(model, "model-mmproj-BF16.gguf")
    assert located(model) == only
    put(model, "mmproj-model-f32.gguf")
    assert located(model) == only
    best = put(model, "mmproj-F16.gguf")
    put(model, "other.gguf")
    assert located(model) == best


def test_off(model: Path) -> None:
    """An empty variable counts as unset, so there is a word for none."""
    put(model, "mmproj-F16.gguf")
    assert located(model, "off") is None
    assert located(model, "") is not None


def test_named_like_a_model(model: Path) -> None:
    """By its path, or by its name in a directory of models."""
    path = put(model, "eyes.gguf")
    assert located(model, str(path)) == path
    assert located(model, "eyes.gguf") == path


def test_errors_name_the_setting(model: Path) -> None:
    """Not the model's."""
    with pytest.raises(ModelError, match=r"MMPROJ, .*no such file"):
        located(model, "/nonexistent/eyes.gguf")
    with pytest.raises(ConfigError, match="MMPROJ, "):
        located(model, "what is this")
    damaged = model.with_name("mmproj-damaged.gguf")
    damaged.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="MMPROJ, "):
        located(model, str(damaged))
