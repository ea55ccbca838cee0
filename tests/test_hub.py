"""What RunPod's Hub reads in .runpod/: its form as documented, our settings in it, and tests that can fail."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic.alias_generators import to_camel

from builder import reference
from handler.models.source import HubModel, parse
from handler.settings import Settings

ROOT = Path(__file__).parent.parent
HUB_TEXT = (ROOT / ".runpod" / "hub.json").read_text()
HUB = json.loads(HUB_TEXT)
CONFIG = HUB["config"]
TESTS = json.loads((ROOT / ".runpod" / "tests.json").read_text())
GPU_POOLS = "AMPERE_16|AMPERE_24|ADA_24|AMPERE_48|ADA_48_PRO|AMPERE_80|ADA_80_PRO|HOPPER_141"
Value = str | int | bool


class Form(BaseModel):
    """Of the documented keys and no others, each of its type."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Option(Form):
    label: str
    value: str


class Input(Form):
    name: str
    type: str = Field(pattern="^(string|huggingface|number|boolean)$")
    description: str = ""
    default: Value = ""
    required: bool = False
    advanced: bool = False
    options: list[Option] = []
    min: int | None = None
    max: int | None = None
    true_value: str = ""
    false_value: str = ""

    @model_validator(mode="after")
    def has_a_default_of_its_type(self) -> "Input":
        kinds = {"string": str, "huggingface": str, "number": int, "boolean": bool}
        assert self.default == "" or type(self.default) is kinds[self.type]
        return self


class InputVariable(Form):
    key: str = Field(pattern="^[A-Z][A-Z0-9_]*$")
    input: Input


class Variable(Form):
    key: str = Field(pattern="^[A-Z][A-Z0-9_]*$")
    value: str


class Preset(Form):
    name: str = Field(min_length=1)
    defaults: dict[str, Value]


CudaVersions = list[str]


class HubConfig(Form):
    runs_on: str = Field(pattern="^(GPU|CPU)$")
    endpoint_type: str = Field("LB", pattern="^LB$")
    container_disk_in_gb: int = Field(ge=1)
    gpu_count: int = Field(1, ge=1)
    gpu_ids: str = Field(pattern=rf"^({GPU_POOLS})(,({GPU_POOLS}|-NVIDIA [^,]+))*$")
    allowed_cuda_versions: CudaVersions
    presets: list[Preset]
    env: list[InputVariable | Variable]


class Listing(Form):
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    type: str = Field(pattern="^serverless$")
    category: str = Field(pattern="^(audio|embedding|language|video|image)$")
    icon_url: str = Field("", pattern="^https://")
    config: HubConfig


class OneTest(Form):
    name: str = Field(min_length=1)
    input: dict[str, Any]
    timeout: int = Field(ge=1000)


class ConfigOfTests(Form):
    gpu_type_id: str
    gpu_count: int = Field(ge=1)
    allowed_cuda_versions: CudaVersions
    env: list[Variable]


class Suite(Form):
    tests: list[OneTest] = Field(min_length=1)
    config: ConfigOfTests


@pytest.mark.parametrize(("form", "content"), [(Listing, HUB), (Suite, TESTS)])
def test_files_are_as_documented(form: type[Form], content: object) -> None:
    """The Hub refuses what it does not know, after the release."""
    TypeAdapter(form).validate_python(content)


def test_inputs_are_the_settings() -> None:
    """`make docs` writes them."""
    assert reference.hub(HUB_TEXT) == HUB_TEXT


def test_every_default_is_accepted() -> None:
    """A form that is left as it is starts a worker."""
    environ = {entry["key"]: _as_sent(entry["input"].get("default", "")) for entry in CONFIG["env"]}

    assert Settings.from_env(environ).host == "0.0.0.0"


@pytest.mark.parametrize("preset", CONFIG["presets"], ids=lambda preset: preset["name"])
def test_presets_set_what_there_is(preset: dict[str, Any]) -> None:
    """A quantisation of a repository, and memory that is said in the preset's name."""
    settings = Settings.from_env({key: _as_sent(value) for key, value in preset["defaults"].items()})
    source = parse(settings.model)

    assert preset["defaults"].keys() <= {entry["key"] for entry in CONFIG["env"]}
    assert isinstance(source, HubModel)
    assert source.quant
    assert re.search(r"\(fits \d+ GB and more\)$", preset["name"])


def test_default_model_is_a_preset() -> None:
    models = [preset["defaults"]["MODEL"] for preset in CONFIG["presets"]]

    assert reference.HUB_DEFAULTS["model"] == models[0]


def test_cuda_versions_are_those_of_the_image() -> None:
    """A host with an older driver cannot run it; the oldest that the Hub may choose is the image's."""
    (version,) = re.findall(r"^ARG CUDA_VERSION=(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert CONFIG["allowedCudaVersions"][0] == version
    assert TESTS["config"]["allowedCudaVersions"] == CONFIG["allowedCudaVersions"]


def test_every_test_can_fail() -> None:
    """The Hub does not look at answers: the worker does, if it is told to and what to expect."""
    environ = {entry["key"]: entry["value"] for entry in TESTS["config"]["env"]}

    assert Settings.from_env(environ).check_answers
    assert all(test["input"]["expect"] for test in TESTS["tests"])


def test_handler_py_is_there() -> None:
    """The Hub looks for the name."""
    assert "python -m handler" in (ROOT / ".runpod" / "handler.py").read_text()


def _as_sent(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
