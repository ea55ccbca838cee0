"""Settings from the environment: what counts as set, and what is said of a wrong one."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from handler.errors import ConfigError
from handler.settings import Settings, quiet_runpod, skip_runpod_checks


def test_nothing_need_be_set() -> None:
    """The demo model, on this machine alone, without a key."""
    settings = Settings.from_env({"PATH": "/bin"})

    assert (settings.model, settings.host, settings.port) == ("demo", "127.0.0.1", 8001)


def test_empty_is_unset() -> None:
    """RunPod's console sends empty strings for what was left empty."""
    assert Settings.from_env({name.upper(): "" for name in Settings.model_fields}) == Settings.from_env({})


def test_values_are_read_by_upper_case_name() -> None:
    """Numbers, flags, lists, paths and secrets all come as text."""
    settings = Settings.from_env(
        {
            "MODEL": "org/name:Q8_0",
            "MODEL_ALIAS": " llama , gpt-4,,",
            "N_CTX": "8192",
            "SWA_FULL": "false",
            "FLASH_ATTN": "on",
            "MODELS_DIR": "/models",
            "API_KEY": "sk-1",
            "model": "ignored",
        }
    )

    assert settings.model == "org/name:Q8_0"
    assert settings.model_alias == ("llama", "gpt-4")
    assert settings.n_ctx == 8192
    assert settings.swa_full is False
    assert settings.flash_attn == "on"
    assert settings.models_dir == Path("/models")
    assert settings.api_key.get_secret_value() == "sk-1"


def test_adapters_have_names() -> None:
    """Their sources are whatever MODEL may be, with what stands behind the first equals sign."""
    settings = Settings.from_env({"LORAS": "sql=org/name:F16, tone = /models/a=b.gguf ,"})

    assert settings.loras == (("sql", "org/name:F16"), ("tone", "/models/a=b.gguf"))
    assert Settings.from_env({}).loras == ()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("LORAS", "/models/a.gguf", "Value error, it must be name=source, or several of them separated by commas"),
        ("LORAS", "a=", "Value error, it must be name=source, or several of them separated by commas"),
        ("LORAS", "a=b.gguf,a=c.gguf", "Value error, a name is there twice"),
        ("PORT", "http", "Input should be a valid integer, unable to parse string as an integer"),
        ("PORT", "70000", "Input should be less than or equal to 65535"),
        ("N_CTX", "-1", "Input should be greater than or equal to 0"),
        ("MAX_NUM_SEQS", "-1", "Input should be greater than or equal to 0"),
        ("MAX_NUM_SEQS", "129", "Input should be less than or equal to 128"),
        ("N_GPU_LAYERS", "-2", "Input should be greater than or equal to -1"),
        ("FLASH_ATTN", "yes", "Input should be 'auto', 'on' or 'off'"),
        ("SWA_FULL", "maybe", "Input should be a valid boolean, unable to interpret input"),
        ("LOG_LEVEL", "debug", "Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("MAX_BODY_BYTES", "4MB", "Input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_wrong_value_is_named(key: str, value: str, reason: str) -> None:
    """One line with key, value and what would be right."""
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({key: value})

    assert str(caught.value) == f"{key} has value '{value}': {reason}"


def test_secrets_are_not_shown() -> None:
    """Neither by a look at the settings nor in their log."""
    settings = Settings.from_env({"API_KEY": "sk-1", "HF_TOKEN": "hf_1"})

    assert "sk-1" not in repr(settings)
    assert "hf_1" not in settings.model_dump_json()


def test_settings_stay_as_they_are() -> None:
    """They are read once."""
    settings = Settings.from_env({})
    with pytest.raises(ValidationError):
        settings.model = "other"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(("name", "field"), Settings.model_fields.items())
def test_every_setting_is_explained(name: str, field: object) -> None:
    """The documentation is written from these sentences."""
    description = getattr(field, "description", None)

    assert description, name
    assert description.endswith(".")


@pytest.mark.parametrize(
    ("environ", "is_in_runpod"),
    [
        ({}, False),
        ({"RUNPOD_WEBHOOK_GET_JOB": "https://api.runpod.ai/v2/ep/job-take/$ID"}, True),
        ({"RUNPOD_REALTIME_PORT": "8080"}, True),
        ({"RUNPOD_WEBHOOK_GET_JOB": ""}, False),
        ({"RUNPOD_POD_ID": "pod"}, False),
    ],
)
def test_is_in_runpod(environ: dict[str, str], is_in_runpod: bool) -> None:
    """Where the SDK would look for jobs; a pod has no jobs."""
    assert Settings.from_env(environ).is_in_runpod is is_in_runpod


@pytest.mark.parametrize(
    ("environ", "num_jobs"),
    [({}, 20), ({"MAX_CONCURRENCY": "3"}, 3)],
)
def test_concurrent_jobs(environ: dict[str, str], num_jobs: int) -> None:
    """A few more than run at once, unless a number is set."""
    assert Settings.from_env(environ).num_concurrent_jobs(16) == num_jobs


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, "INFO"),
        ({"RUNPOD_LOG_LEVEL": "", "RUNPOD_DEBUG_LEVEL": ""}, "INFO"),
        ({"RUNPOD_DEBUG_LEVEL": "WARN"}, "WARN"),
        ({"RUNPOD_LOG_LEVEL": "DEBUG", "RUNPOD_DEBUG_LEVEL": "WARN"}, "DEBUG"),
    ],
)
def test_runpod_is_quiet_unless_told_otherwise(environ: dict[str, str], level: str) -> None:
    """At its own default level the SDK writes every chunk of every answer into the log."""
    quiet_runpod(environ)

    assert environ["RUNPOD_LOG_LEVEL"] == level


def test_runpods_checks_are_skipped_unless_told_otherwise() -> None:
    """The worker's own, of a token, comes first and shows more."""
    environ = {"RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "false"}
    skip_runpod_checks(environ)

    assert environ == {"RUNPOD_SKIP_GPU_CHECK": "true", "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "false"}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SPECULATE": "draft"}, "SPECULATE has value 'draft': a second model that drafts is no longer supported"),
        ({"DRAFT_MODEL": "org/small"}, "DRAFT_MODEL has value 'org/small': .* SPECULATE=lookup drafts without one"),
    ],
)
def test_what_was_removed_is_refused(environ: dict[str, str], message: str) -> None:
    """A setting that no longer does anything stops the start and says what to do instead; left empty, it is unset."""
    with pytest.raises(ConfigError, match=message):
        Settings.from_env(environ)
    assert Settings.from_env(dict.fromkeys(environ, "")) == Settings.from_env({})


def test_bounds_of_an_image_s_tokens() -> None:
    """The least cannot be more than the most, unless that is the projector's own."""
    with pytest.raises(ConfigError, match="IMAGE_MIN_TOKENS"):
        Settings.from_env({"IMAGE_MIN_TOKENS": "20", "IMAGE_MAX_TOKENS": "10"})
    assert Settings.from_env({"IMAGE_MIN_TOKENS": "20"}).image_min_tokens == 20
