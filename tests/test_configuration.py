"""docs/configuration.md says what handler/settings.py does."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder import reference
from handler.errors import ConfigError
from handler.settings import ALIASES, Settings
from tests.tiny_models import Architecture

DOCUMENT = reference.CONFIGURATION.read_text()
DOCKERFILE = (Path(__file__).parent.parent / "Dockerfile").read_text()


def test_document_is_current() -> None:
    """`make docs` writes it."""
    assert reference.configuration() == DOCUMENT


def test_every_setting_is_in_one_section() -> None:
    sections = [name for names in reference.SECTIONS.values() for name in names]

    assert sorted(sections) == sorted(Settings.model_fields)


def test_aliases_are_of_settings() -> None:
    """And no name means two things."""
    names = [name for others in ALIASES.values() for name in others]

    assert set(ALIASES) <= set(Settings.model_fields)
    assert len(names) == len(set(names))
    assert not {name.lower() for name in names} & set(Settings.model_fields)


def test_image_has_the_defaults_that_are_told() -> None:
    (variables,) = re.findall(r"^ENV (PATH=.*)$", DOCKERFILE, re.MULTILINE)
    set_by_image = dict(
        word.split("=") for word in variables.split() if word.split("=")[0].lower() in Settings.model_fields
    )

    assert {name.lower(): value for name, value in set_by_image.items()} == reference.IMAGE_DEFAULTS


@pytest.mark.parametrize(("setting", "name"), [(setting, name) for setting in ALIASES for name in ALIASES[setting]])
def test_setting_goes_by_its_other_names(setting: str, name: str) -> None:
    """Those of worker-vllm, llama-server and other llama.cpp workers."""
    words = {"flash_attn": "on", "cache_type_k": "q8_0", "cache_type_v": "q4_0", "split_mode": "row", "pooling": "cls"}
    value = words.get(setting, "1")

    assert Settings.from_env({name: value}) == Settings.from_env({setting.upper(): value})


def test_wrong_value_is_named_as_it_was_set() -> None:
    with pytest.raises(ConfigError, match="LLAMA_CONTEXT_SIZE has value 'much': "):
        Settings.from_env({"LLAMA_CONTEXT_SIZE": "much"})


def test_two_names_with_two_values() -> None:
    """Which one is meant cannot be known."""
    with pytest.raises(ConfigError, match="MODEL and MODEL_NAME are one setting and have different values"):
        Settings.from_env({"MODEL": "demo", "MODEL_NAME": "org/name"})


@pytest.mark.parametrize("other", ["demo", ""])
def test_two_names_with_one_value(other: str) -> None:
    """An empty one is none."""
    assert Settings.from_env({"MODEL": "demo", "MODEL_NAME": other}).model == "demo"


@pytest.mark.parametrize("key", ["N_CTX", "LLAMA_CONTEXT_SIZE"])
def test_sequence_longer_than_the_cache(key: str) -> None:
    with pytest.raises(ConfigError, match=f"MAX_MODEL_LEN has value 8192: the cache holds {key}=4096 tokens"):
        Settings.from_env({key: "4096", "MAX_MODEL_LEN": "8192"})


def test_option_overrides_every_name(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """The command line is nearer than the environment, under whichever name that has the setting."""
    model = str(tiny_model_paths["llama"])
    fetch = [sys.executable, "-m", "handler", "fetch", "--model", model]
    environ = {"MODEL_NAME": "org/other", "PATH": os.environ["PATH"]}
    result = subprocess.run(fetch, env=environ, capture_output=True, text=True, check=False)

    assert result.stdout == f"{model}\n", result.stderr
