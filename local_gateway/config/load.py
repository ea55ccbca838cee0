"""Where the settings come from: gateway.yaml, or the environment alone. The one reader of both.

The environment is an argument. A variable that is empty counts as unset.
"""

import copy
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr, ValidationError

from local_gateway.config.messages import explain
from local_gateway.config.settings import GatewaySettings, LocalTarget
from local_gateway.config.variables import substitute
from local_gateway.config.yaml_document import Document, Place, parse
from local_gateway.errors import ConfigError

Environ = Mapping[str, str]

FILE_NAME = "gateway.yaml"
MAX_FILE_BYTES = 10_000_000
READ_SECONDS = 10.0
DATABASE = Path("gguf-on-runpod") / "gateway.db"
OVERRIDES: dict[str, Place] = {
    "GATEWAY_HOST": ("server", "host"),
    "GATEWAY_PORT": ("server", "port"),
    "GATEWAY_REQUIRE_KEYS": ("server", "require_keys"),
    "GATEWAY_ADMIN_KEY": ("server", "admin_key"),
    "GATEWAY_DATABASE_URL": ("database", "url"),
    "GATEWAY_LOG_LEVEL": ("log", "level"),
}
RUNPOD_TYPES = {"": "runpod_queue", "queue": "runpod_queue", "lb": "runpod_lb"}  # of RUNPOD_ENDPOINT_TYPE
OPENAI_MODELS = (
    *("gpt-*", "chatgpt-*", "codex-*", "o1*", "o3*", "o4*", "ft:*", "text-embedding-*"),
    *("omni-moderation-*", "dall-e-*", "whisper-*", "tts-*", "sora-*"),
)
ANY_MODEL = ("*",)  # of a server that speaks OpenAI's API: its names are its own
OPENAI = "https://api.openai.com/"
MIN_SECRET = 16  # characters of a header that may be a secret
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def find_file(option: str | None, environ: Environ, folder: Path = Path()) -> Path | None:
    """Which file is meant: --config, GATEWAY_CONFIG, or gateway.yaml in the folder. None: the environment alone."""
    if named := option or environ.get("GATEWAY_CONFIG"):
        return Path(named)
    return folder / FILE_NAME if (folder / FILE_NAME).exists() else None


def read(path: Path | None, environ: Environ) -> GatewaySettings:
    """The settings of this file, or of the environment alone. Raises ConfigError."""
    return load(path, environ) if path else from_environment(environ)


def load(path: Path, environ: Environ) -> GatewaySettings:
    """Read gateway.yaml. Raises ConfigError with one line for each mistake: file, line, key and reason."""
    document = parse(_text_of(path), str(path), partial(substitute, environ=environ))
    if not isinstance(document.data, dict | None):
        raise ConfigError(f"{path} line 1: the file must have keys: models, server, ...")
    return _validate(document, environ)


def _text_of(path: Path) -> str:
    try:
        return _read_in_time(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start + 1} is wrong") from None


def _read_in_time(path: Path) -> bytes:
    """In a daemon thread, because a dead network mount holds a reader for ever, and the process with it."""
    done: list[bytes | ConfigError] = []

    def read() -> None:
        try:
            done.append(_read_regular(path))
        except OSError as error:
            done.append(ConfigError(f"{path} cannot be read: {error.strerror}"))
        except ConfigError as error:
            done.append(error)

    thread = threading.Thread(target=read, name="read-config", daemon=True)
    thread.start()
    thread.join(READ_SECONDS)
    if not done:
        raise ConfigError(f"{path} cannot be read within {READ_SECONDS:g} s: look at what it is mounted from")
    if isinstance(done[0], ConfigError):
        raise done[0]
    return done[0]


def _read_regular(path: Path) -> bytes:
    """Raises OSError, and ConfigError for what has no end, like a pipe."""
    with open(path, "rb", opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is no regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return file.read(MAX_FILE_BYTES)


def _without_waiting(path: str, flags: int) -> int:
    """A pipe is opened at once, without a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def from_environment(environ: Environ) -> GatewaySettings:
    """RUNPOD_API_KEY and RUNPOD_ENDPOINT_ID make `llama`, WORKER_BASE_URL does or stands in for them; OPENAI_API_KEY
    makes OpenAI's models; else there is the demo.

    Raises ConfigError that names the variable.
    """
    models: dict[str, Any] = {}
    variables: dict[Place, str] = {}
    for names, target, of_target in (_runpod(environ), _worker(environ), _openai(environ)):
        for name in names:
            targets = models.setdefault(name, {"targets": []})["targets"]
            index = len(targets)
            targets.append({**target, "priority": index + 1})
            variables |= {("models", name, "targets", index, key): variable for key, variable in of_target.items()}
    models = models or {"llama": {"targets": [{"type": "local"}]}}
    return _validate(Document({"models": models}, variables=variables), environ)


_Found = tuple[tuple[str, ...], dict[str, Any], dict[str, str]]  # models, their target, and which variable set what


def _runpod(environ: Environ) -> _Found:
    variables = {"api_key": "RUNPOD_API_KEY", "endpoint_id": "RUNPOD_ENDPOINT_ID", "base_url": "RUNPOD_BASE_URL"}
    values = _set_ones(variables, environ)
    if not values.keys() & {"api_key", "endpoint_id"}:
        return (), {}, {}
    for key, other in (("api_key", "endpoint_id"), ("endpoint_id", "api_key")):
        if key not in values:
            raise ConfigError(f"{variables[other]} is set and {variables[key]} is not: set both, or none of them")
    endpoint_type = environ.get("RUNPOD_ENDPOINT_TYPE", "")
    if endpoint_type not in RUNPOD_TYPES:
        raise ConfigError("RUNPOD_ENDPOINT_TYPE: must be `queue` or `lb`")
    return ("llama",), {"type": RUNPOD_TYPES[endpoint_type], **values}, variables


def _worker(environ: Environ) -> _Found:
    """A worker that runs elsewhere already: in a container beside this one, on another machine."""
    variables = {"base_url": "WORKER_BASE_URL", "api_key": "WORKER_API_KEY"}
    values = _set_ones(variables, environ)
    if "base_url" not in values:
        return (), {}, {}
    return ("llama",), {"type": "openai", "name": "worker", "normalize": True, **values}, variables


def _openai(environ: Environ) -> _Found:
    variables = {
        "api_key": "OPENAI_API_KEY",
        "base_url": "OPENAI_BASE_URL",
        "organization": "OPENAI_ORG_ID",
        "project": "OPENAI_PROJECT_ID",
    }
    values = _set_ones(variables, environ)
    if not values.keys() & {"api_key", "base_url"}:
        return (), {}, {}
    is_openai = values.get("base_url", OPENAI).startswith(OPENAI)
    return OPENAI_MODELS if is_openai else ANY_MODEL, {"type": "openai", **values}, variables


def _set_ones(variables: Mapping[str, str], environ: Environ) -> dict[str, str]:
    return {key: value for key, variable in variables.items() if (value := environ.get(variable))}


def _validate(document: Document, environ: Environ) -> GatewaySettings:
    document = _overridden(document, environ)
    try:
        settings = GatewaySettings.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(explain(error, document)) from None
    if settings.database.url:
        return settings
    database = settings.database.model_copy(update={"url": default_database_url(environ)})
    return settings.model_copy(update={"database": database})


def _overridden(document: Document, environ: Environ) -> Document:
    """With what GATEWAY_* say instead. A section without any key is as one that is not there."""
    given = document.data if isinstance(document.data, dict) else {}
    data = {key: copy.copy(value) for key, value in given.items() if value is not None}
    variables = dict(document.variables)
    for variable, place in OVERRIDES.items():
        section = data.setdefault(place[0], {}) if environ.get(variable) else None
        if isinstance(section, dict):
            section[place[1]] = environ[variable]
            variables[place] = variable
    return Document(data, document.name, document.lines, variables)


def default_database_url(environ: Environ) -> str:
    """In ${XDG_DATA_HOME:-~/.local/share}; opening the database makes the folder."""
    folder = Path(environ.get("XDG_DATA_HOME", ""))
    if not folder.is_absolute():  # the standard of these folders has them ignored
        folder = Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    return f"sqlite:///{folder / DATABASE}"


def secrets_of(settings: GatewaySettings) -> frozenset[str]:
    """Every secret in the settings, in each form in which it could come into a log."""
    return frozenset(secret for secret in _secrets(settings) if secret)


def _secrets(settings: GatewaySettings) -> Iterator[str]:
    for target in (target for model in settings.models.values() for target in model.targets):
        for _, value in target:
            if isinstance(value, SecretStr):
                yield value.get_secret_value()
        headers = (value.get_secret_value() for value in target.headers.values())
        yield from (value for value in headers if len(value) >= MIN_SECRET)  # shorter ones are dates and versions
        if isinstance(target, LocalTarget):
            yield from (value for name, value in target.env.items() if any(word in name for word in SECRET_WORDS))
        else:
            yield from _password(target.base_url)
    yield settings.server.admin_key.get_secret_value()
    yield from _password(settings.database.url)


def _password(url: str) -> tuple[str, ...]:
    match = re.match(r"[^/]*//[^/:]*:(.*)@", url)
    return (match[1], unquote(match[1])) if match else ()
