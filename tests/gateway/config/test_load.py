"""Settings are made of gateway.yaml, or of the environment alone; a mistake is told with its place and a reason."""

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from local_gateway.config import load as load_module
from local_gateway.config.load import OPENAI_MODELS, find_file, from_environment, load, read, secrets_of
from local_gateway.config.settings import GatewaySettings, LocalTarget, OpenAITarget, RunpodLbTarget, RunpodQueueTarget
from local_gateway.errors import ConfigError

HOME = {"HOME": "/home/ada"}
SECRET = "s3cret-Value"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str, **environ: str) -> GatewaySettings:
    path = Path("gateway.yaml")
    path.write_text(text)
    return load(path, HOME | environ)


def complaint(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(text, **environ)
    return str(caught.value)


def only_target(settings: GatewaySettings, model: str = "llama") -> object:
    (target,) = settings.models[model].targets
    return target


def openai_with(line: str) -> str:
    """A file whose line 6 is this one, in a target."""
    return f"models:\n  llama:\n    targets:\n      - type: openai\n        model: m\n        {line}\n"


# gateway.yaml


def test_file() -> None:
    """The shape that the documentation shows."""
    settings = loaded(
        """
        models:
          llama:
            targets:
              - {type: runpod_queue, endpoint_id: "${RUNPOD_ENDPOINT_ID}", api_key: "${RUNPOD_API_KEY}"}
              - {type: openai, base_url: https://api.openai.com/v1, api_key: "${OPENAI_API_KEY}", priority: 2}
          "gpt-*":
            targets: [{type: openai, api_key: "${OPENAI_API_KEY}"}]
        """,
        RUNPOD_ENDPOINT_ID="abc",
        RUNPOD_API_KEY="rpa_1",
        OPENAI_API_KEY="sk-1",
    )
    queue, openai = settings.models["llama"].targets

    assert isinstance(queue, RunpodQueueTarget)
    assert isinstance(openai, OpenAITarget)
    assert (queue.endpoint_id, queue.api_key.get_secret_value()) == ("abc", "rpa_1")
    assert (openai.priority, openai.api_key.get_secret_value()) == (2, "sk-1")
    assert settings.find("gpt-4o") == "gpt-*"


def test_json_is_yaml_too() -> None:
    config = {"models": {"llama": {"targets": [{"type": "local"}]}}, "server": {"port": 1}}

    assert loaded(json.dumps(config)).server.port == 1


def test_characters_in_halves() -> None:
    """As JSON writes those that are not in the first 65,536; a half alone cannot be sent."""
    smile = "\N{SLIGHTLY SMILING FACE}"
    settings = loaded(json.dumps({"models": {smile: {"targets": [{"type": "local"}], "description": smile}}}))

    assert settings.models[smile].description == smile
    assert complaint('models: {m: {description: "\\ud83d"}}') == (
        "gateway.yaml line 1: models.m.description: there is half a character in it"
    )
    assert complaint(openai_with("name: ${NAME}"), NAME="\udcff").endswith("name: there is half a character in it")


def test_section_without_keys_is_as_none() -> None:
    """All of its lines are comments."""
    assert loaded("models: {llama: {targets: [{type: local}]}}\nserver:\n  # port: 1\n").server.port == 8000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no", "no"),
        ("2024-08-06", "2024-08-06"),
        ("1:30", "1:30"),
        ("0123", 123),
        ("1e-3", 0.001),
        ("5_000", 5000),
        ("-7", -7),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("{50256: -100}", {"50256": -100}),
    ],
)
def test_plain_values_are_what_they_look_like(value: str, expected: object) -> None:
    """As in YAML 1.2, without its dates: no octal number, and no boolean but true and false."""
    target = only_target(loaded(openai_with(f"set_params: {{x: {value}}}")))

    assert isinstance(target, OpenAITarget)
    assert target.set_params == {"x": expected}


def test_parts_can_be_used_again() -> None:
    """By anchors, aliases and `<<`, whose keys may be overridden, also twice."""
    settings = loaded(
        """
        models:
          a: &a
            targets:
              - &t {type: openai, priority: 1, model: m}
              - {<<: *t, priority: 2}
          b: *a
          c: {<<: *a, targets: [*t]}
        """
    )

    assert settings.models["a"] == settings.models["b"]
    assert [target.priority for target in settings.models["b"].targets] == [1, 2]
    assert settings.models["c"].targets == settings.models["a"].targets[:1]


# ${NAME}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${SET}", "value"),
        ("<${SET}-${SET}>", "<value-value>"),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b}", "a:-b"),
        ("${SET:-other}", "value"),
        ("$${SET}", "${SET}"),
        ("a$b $5 $", "a$b $5 $"),
    ],
)
def test_variables_in_text(text: str, expected: str) -> None:
    """As in a shell; an empty variable counts as unset."""
    target = only_target(loaded(openai_with(f'name: "{text}"'), SET="value", EMPTY=""))

    assert isinstance(target, OpenAITarget)
    assert target.name == expected


def test_value_of_a_variable_is_no_yaml() -> None:
    """It can hold whatever would mean something in a file, and is not replaced again."""
    value = "\"}: [*x] # ${SET} $$\n - 'y"
    target = only_target(loaded(openai_with("name: ${SET}"), SET=value))

    assert isinstance(target, OpenAITarget)
    assert target.name == value


def test_variable_can_be_a_number_or_a_boolean() -> None:
    settings = loaded(
        openai_with("weight: ${WEIGHT}") + "server: {port: '${PORT}', require_keys: '${KEYS}', drain: '${DRAIN}'}\n",
        WEIGHT="2.5",
        PORT="80",
        KEYS="true",
        DRAIN="2m",
    )

    assert settings.models["llama"].targets[0].weight == 2.5
    assert (settings.server.port, settings.server.require_keys, settings.server.drain) == (80, True, 120.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${UNSET}", "the environment variable UNSET is not set; ${UNSET:-...} would give it a default"),
        ("${EMPTY}", "the environment variable EMPTY is not set"),
        ("$OPENAI_API_KEY", "write ${OPENAI_API_KEY} for the variable, or $$OPENAI_API_KEY for this very text"),
        (f"${{{SECRET}}}", "after ${ must come NAME} or NAME:-default}"),
        (f"{SECRET}${{", "after ${ must come NAME} or NAME:-default}"),
        ("${A:-${B}}", "after ${ must come NAME} or NAME:-default}"),
    ],
)
def test_wrong_variable(text: str, reason: str) -> None:
    told = complaint(openai_with(f'api_key: "{text}"'), EMPTY="")

    assert told.startswith(f"gateway.yaml line 6: models.llama.targets[0].api_key: {reason}")
    assert SECRET not in told


def test_every_missing_variable_is_told() -> None:
    told = complaint("models:\n  a: {targets: ['${A}', '${B}']}\n  b: ${C}\n")

    assert [line.partition(": the")[0] for line in told.splitlines()] == [
        "gateway.yaml line 2: models.a.targets[0]",
        "gateway.yaml line 2: models.a.targets[1]",
        "gateway.yaml line 3: models.b",
    ]


# Mistakes


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("wieght: 2", "wieght: there is no such setting; did you mean `weight`?"),
        ("API_KEY: x", "API_KEY: there is no such setting; did you mean `api_key`?"),
        ("gguf: x", "gguf: there is no such setting; there are name, model, priority,"),
        ("weight: 0", "weight: must be more than 0, not 0"),
        ("weight: heavy", "weight: must be a number"),
        ("weight: inf", "weight: must be a finite number"),
        ("priority: 0", "priority: must be at least 1, not 0"),
        ("priority: 1.5", "priority: must be a whole number, not 1.5"),
        ("priority: high", "priority: must be a whole number"),
        ("name: 5", "name: must be text; put it in quotes"),
        ("api_key: 123456", "api_key: must be text; put it in quotes"),
        ("stream_usage: maybe", "stream_usage: must be true or false"),
        ("drop_params: user", "drop_params: must be a list: [a, b]"),
        ("drop_params: [user, 5]", "drop_params[1]: must be text; put it in quotes"),
        ("price: 5", "price: must have keys of its own: prompt, cached, completion, gpu_second"),
        ("price:", "price: is empty; it must have keys of its own: prompt,"),
        ("set_params: [x]", "set_params: must have keys of its own"),
        ("breaker: {open_for: 5x}", "breaker.open_for: must be seconds, or text such as 500ms, 8s, 2m, 1h, 7d"),
        ("breaker: {open_for: 0}", "breaker.open_for: must be more than 0, not 0"),
        ("base_url: localhost/v1", "base_url: must begin with http:// or https://, and hold no space"),
        ("base_url: http://a:b/", "base_url: is no address: look at its host and port"),
        ("base_url: http://[a/v1", "base_url: is no address: look at its host and port"),
    ],
)
def test_wrong_setting_of_a_target(line: str, told: str) -> None:
    """Line, place and reason, in plain words."""
    assert complaint(openai_with(line)).startswith(f"gateway.yaml line 6: models.llama.targets[0].{told}")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{type: runpod}", ".type: must be `openai`, `runpod_queue`, `runpod_lb` or `local`, not `runpod`"),
        ("{typ: local}", ".type: is missing; it must be `openai`, `runpod_queue`, `runpod_lb` or `local`"),
        ("{type: runpod_lb, api_key: x}", ".endpoint_id: is missing"),
        ("{type: runpod_lb, api_key: '', endpoint_id: x}", ".api_key: must not be empty"),
        ("{type: runpod_lb, api_key: x, endpoint_id: x/y}", ".endpoint_id: must be the id alone: letters,"),
        ("{type: runpod_queue, api_key: x, endpoint_id: x, api: job}", ".api: must be `jobs` or `openai`, not `job`"),
        ("{type: local, env: {N_CTX: 1}}", ".env.N_CTX: must be text; put it in quotes"),
        ("local", ": must have keys of its own: name,"),
    ],
)
def test_wrong_target(target: str, told: str) -> None:
    assert complaint(f"models:\n  m:\n    targets:\n      - {target}\n").startswith(
        f"gateway.yaml line 4: models.m.targets[0]{told}"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "gateway.yaml line 1: models: is missing"),
        ("models: {}", "gateway.yaml line 1: models: must not be empty"),
        ("- models", "gateway.yaml line 1: the file must have keys: models, server, ..."),
        ("models:\n  llama:\n", "gateway.yaml line 2: models.llama: is empty; it must have keys of its own: targets,"),
        ("models:\n  llama: {targets: []}\n", "gateway.yaml line 2: models.llama.targets: must not be empty"),
        ("models: {m: {}}\n", "gateway.yaml line 1: models.m.targets: is missing"),
        (
            "models:\n  'a.*b': {targets: [{type: local}]}\n",
            'gateway.yaml line 2: models."a.*b": a `*` can only be at the end of a name',
        ),
        (
            "models:\n  llama: {targets: [{type: local}], fallbacks: [lama2]}\n  llama2: {targets: [{type: local}]}\n",
            "gateway.yaml line 2: models.llama.fallbacks[0]: there is no model `lama2` here; did you mean `llama2`?",
        ),
        (
            "models:\n  llama:\n    targets: [{type: local}]\n    cold_start:\n      use: llama\n",
            "gateway.yaml line 5: models.llama.cold_start.use: `llama` is this model itself",
        ),
        (
            "models:\n"
            "  llama:\n"
            "    targets: [{type: runpod_queue, endpoint_id: e, api_key: k, worker_price: 1}]\n"
            "    cold_start: {use: other, wake: cheaper}\n"
            "  other: {targets: [{type: openai, price: {prompt: 1}}, {type: openai}]}\n",
            "gateway.yaml line 4: models.llama.cold_start.wake: needs a `worker_price` of the first target, and a",
        ),
        (
            "models:\n"
            "  llama:\n"
            "    targets: [{type: runpod_queue, endpoint_id: e, api_key: k}]\n"
            "    cold_start: {use: other, wake: cheaper}\n"
            "  other: {targets: [{type: openai, price: {prompt: 1}}]}\n",
            "gateway.yaml line 4: models.llama.cold_start.wake: needs a `worker_price` of the first target, and a",
        ),
    ],
)
def test_wrong_models(text: str, told: str) -> None:
    assert complaint(text).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port: 80", "port: there is no such setting; did you mean `server.port`?"),
        ("tiemouts: {}", "tiemouts: there is no such setting; did you mean `timeouts`?"),
        ("server: {port: 99999}", "server.port: must be at most 65535, not 99999"),
        ("server: {cors_origins: [http://a/b]}", "server.cors_origins[0]: must be `*`, or as http://localhost:3000"),
        ("log: {level: info}", "log.level: must be `DEBUG`, `INFO`, `WARNING` or `ERROR`, not `info`"),
        ("server: 5", "server: must have keys of its own: host, port,"),
    ],
)
def test_wrong_section(text: str, told: str) -> None:
    assert complaint(f"models: {{m: {{targets: [{{type: local}}]}}}}\n{text}\n").startswith(
        f"gateway.yaml line 2: {told}"
    )


def test_all_mistakes_are_told_in_the_order_of_the_file() -> None:
    """And a list is not called empty because what is in it is wrong."""
    targets = "      - {type: x}\n      - {type: local, port: -1}\n"
    told = complaint(f"log: {{levl: INFO}}\nmodels:\n  m:\n    targets:\n{targets}server: {{port: x}}\n")

    assert [line.partition(": must")[0] for line in told.splitlines()] == [
        "gateway.yaml line 1: log.levl: there is no such setting; did you mean `level`?",
        "gateway.yaml line 5: models.m.targets[0].type",
        "gateway.yaml line 6: models.m.targets[1].port",
        "gateway.yaml line 7: server.port",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: b: c", "line 1: this is no YAML: a colon where none can be; put the text in quotes"),
        ("a:\n\tb: c", "line 2: this is no YAML: there is a tab; indent with spaces"),
        ("a: {b: ${C}}", "line 1: this is no YAML: inside {...} and [...] put ${NAME} in quotes"),
        ("a: [b, c\nd: e", "line 2: this is no YAML: a comma is missing, or a bracket is not closed"),
        ("a:\n  *: b", "line 2: this is no YAML: no anchor for this alias; put text that begins with * in quotes"),
        ("a: *b", "line 1: this is no YAML: no anchor for this alias"),
        ("a: @b", "line 1: this is no YAML: put text that begins with @, ` or % in quotes"),
        ('a: "b\nc: d\n', "line 1: this is no YAML: a quote is not closed"),
        ('a: "\\d"', 'line 1: this is no YAML: a \\ in "..." must be written twice'),
        ("a:\n  b: c\n d: e", "line 3: this is no YAML: the indentation does not fit the lines above"),
        ("a: b\n---\nc: d", "line 2: this is no YAML: only one document can be in it"),
        ("a:\n  b\x01", "line 2: this is no YAML: there is a character that cannot be seen"),
        ("a: !secret b", "line 1: a: a tag (!...) that is not known here; put text that begins with ! in quotes"),
        ("models:\n  a: 1\n  b: 2\n  a: 3", "line 4: a: this key is there twice"),
        ("[a]: b", "line 1: a key must be text, and not empty"),
        ("a:\n  {b:c}", "line 2: a.b: a space is missing after the colon"),
    ],
)
def test_wrong_yaml(text: str, told: str) -> None:
    """Said in words for people who do not know YAML's own."""
    assert complaint(text).startswith(f"gateway.yaml {told}")


def test_a_tag_that_does_not_fit() -> None:
    assert complaint("a: !!int b") == "gateway.yaml: this is no YAML"


def test_yaml_without_end() -> None:
    assert complaint("[" * 1000).startswith(
        "gateway.yaml: it is nested too deeply, or an alias is inside of its own anchor"
    )


def test_file_that_cannot_be_read(folder: Path) -> None:
    Path("latin.yaml").write_bytes("a: ä".encode("latin-1"))

    with pytest.raises(ConfigError, match=r"^none\.yaml cannot be read: No such file or directory$"):
        load(Path("none.yaml"), HOME)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(folder, HOME)
    with pytest.raises(ConfigError, match=r"^latin\.yaml is not UTF-8 text: byte 4 is wrong$"):
        load(Path("latin.yaml"), HOME)


def test_byte_order_mark_is_no_mistake() -> None:
    """Editors on Windows write one."""
    assert loaded("\ufeffmodels: {m: {targets: [{type: local}]}}").models.keys() == {"m"}


@pytest.mark.parametrize(
    "text",
    [
        openai_with(f"api_key: [{SECRET}]"),
        openai_with(f"api_key: '{SECRET} '"),
        openai_with(f"api_key: *{SECRET}"),
        openai_with(f"api_key: !{SECRET} x"),
        openai_with(f"api_key: @{SECRET}"),
        openai_with(f"api_key: {SECRET}: {SECRET}"),
        openai_with(f"api_key: '{SECRET}"),
        openai_with(f"priority: {SECRET}"),
        openai_with(f"base_url: http://me:{SECRET}@[x/v1"),
        openai_with(f"set_params: {SECRET}"),
        openai_with(f"breaker: {{open_for: {SECRET}}}"),
        openai_with("price: {prompt: '${KEY}'}"),
        f"models:\n  m:\n    targets: [{{api_key:{SECRET}}}]\n",
        f"models:\n  m:\n    targets: [{{type: {SECRET}}}]\n",
        f"models: {{m: {{targets: [{{type: local}}]}}}}\nlog: {{level: {SECRET}}}\n",
        f"models: {{m: {{targets: [{{type: local}}]}}}}\ndatabase: {{url: [{SECRET}]}}\n",
    ],
)
def test_no_value_that_may_be_secret_is_told(text: str) -> None:
    """Also where a key was put in the wrong place."""
    assert SECRET not in complaint(text, KEY=SECRET)


# The environment


def test_runpod_from_the_environment() -> None:
    settings = from_environment({**HOME, "RUNPOD_API_KEY": "rpa_1", "RUNPOD_ENDPOINT_ID": "abc"})
    target = only_target(settings)

    assert isinstance(target, RunpodQueueTarget)
    assert (target.endpoint_id, target.api_key.get_secret_value()) == ("abc", "rpa_1")
    assert list(settings.models) == ["llama"]


def test_load_balancing_endpoint_from_the_environment() -> None:
    environ = {"RUNPOD_API_KEY": "k", "RUNPOD_ENDPOINT_ID": "abc", "RUNPOD_ENDPOINT_TYPE": "lb"}
    target = only_target(from_environment({**HOME, **environ, "RUNPOD_BASE_URL": "http://127.0.0.1:1/v1"}))

    assert isinstance(target, RunpodLbTarget)
    assert target.base_url == "http://127.0.0.1:1/v1"


def test_openai_from_the_environment() -> None:
    """Beside RunPod or alone: its models by their own names."""
    both = {"RUNPOD_API_KEY": "k", "RUNPOD_ENDPOINT_ID": "abc", "OPENAI_API_KEY": "sk-1", "OPENAI_ORG_ID": "org-1"}
    settings = from_environment({**HOME, **both})
    alone = from_environment({**HOME, "OPENAI_API_KEY": "sk-1"})
    target = only_target(settings, "gpt-*")

    assert isinstance(target, OpenAITarget)
    assert (target.api_key.get_secret_value(), target.organization) == ("sk-1", "org-1")
    assert tuple(settings.models) == ("llama", *OPENAI_MODELS)
    assert tuple(alone.models) == OPENAI_MODELS
    assert all(alone.find(name) for name in ("gpt-4o-mini", "o3-mini", "text-embedding-3-small", "ft:gpt-4o:a::b"))
    assert alone.find("llama") is None


def test_other_server_that_speaks_openai() -> None:
    """Its models have names of its own, and it may want no key."""
    settings = from_environment({**HOME, "OPENAI_BASE_URL": "http://127.0.0.1:11434/v1"})

    assert list(settings.models) == ["*"]


def test_worker_that_runs_already() -> None:
    """As in the container beside this one: no other model is its, and RunPod comes before it."""
    alone = from_environment({**HOME, "WORKER_BASE_URL": "http://worker:8001/v1", "WORKER_API_KEY": "w-key"})
    both = from_environment(
        {**HOME, "RUNPOD_API_KEY": "k", "RUNPOD_ENDPOINT_ID": "abc", "WORKER_BASE_URL": "http://worker:8001/v1"}
    )

    (target,) = alone.models["llama"].targets
    assert isinstance(target, OpenAITarget)
    assert (target.base_url, target.normalize, target.chat_only) == ("http://worker:8001/v1", True, False)
    assert target.api_key.get_secret_value() == "w-key"
    assert [(each.type, each.priority) for each in both.models["llama"].targets] == [("runpod_queue", 1), ("openai", 2)]


def test_admin_key_from_the_environment() -> None:
    """It is a secret, and a short one is none."""
    settings = from_environment({**HOME, "GATEWAY_ADMIN_KEY": "lg-0123456789abcdef0123"})

    assert "lg-0123456789abcdef0123" in secrets_of(settings)
    with pytest.raises(ConfigError, match="GATEWAY_ADMIN_KEY: is too short to be a secret"):
        from_environment({**HOME, "GATEWAY_ADMIN_KEY": "admin"})


def test_empty_environment_is_the_demo_model() -> None:
    """Empty variables are as none."""
    settings = from_environment({**HOME, "OPENAI_API_KEY": "", "RUNPOD_API_KEY": "", "GATEWAY_PORT": ""})
    target = only_target(settings)

    assert isinstance(target, LocalTarget)
    assert (target.gguf, settings.server.port) == ("demo", 8000)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RUNPOD_API_KEY": "k"}, "RUNPOD_API_KEY is set and RUNPOD_ENDPOINT_ID is not: set both, or none of them"),
        ({"RUNPOD_ENDPOINT_ID": "x"}, "RUNPOD_ENDPOINT_ID is set and RUNPOD_API_KEY is not: set both, or none of them"),
        (
            {"RUNPOD_ENDPOINT_ID": "https://x", "RUNPOD_API_KEY": "k"},
            "RUNPOD_ENDPOINT_ID: must be the id alone: letters, digits, - and _",
        ),
        (
            {"RUNPOD_ENDPOINT_ID": "x", "RUNPOD_API_KEY": f"{SECRET}\n"},
            "RUNPOD_API_KEY: holds a space, a line break or a character that no key has",
        ),
        (
            {"RUNPOD_ENDPOINT_ID": "x", "RUNPOD_API_KEY": "k", "RUNPOD_ENDPOINT_TYPE": "pod"},
            "RUNPOD_ENDPOINT_TYPE: must be `queue` or `lb`",
        ),
        ({"OPENAI_BASE_URL": "localhost"}, "OPENAI_BASE_URL: must begin with http:// or https://"),
        ({"GATEWAY_PORT": "tcp://10.0.0.1:80"}, "GATEWAY_PORT: must be a whole number"),
        ({"GATEWAY_LOG_LEVEL": "info"}, "GATEWAY_LOG_LEVEL: must be `DEBUG`, `INFO`, `WARNING` or `ERROR`, not `info`"),
        ({"GATEWAY_REQUIRE_KEYS": "maybe"}, "GATEWAY_REQUIRE_KEYS: must be true or false"),
    ],
)
def test_wrong_variable_is_named(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment(HOME | environ)

    assert str(caught.value).startswith(told)
    assert SECRET not in str(caught.value)


def test_wrong_variable_is_told_once() -> None:
    """Although many models would be by it."""
    with pytest.raises(ConfigError) as caught:
        from_environment({**HOME, "OPENAI_API_KEY": "sk 1"})

    assert len(str(caught.value).splitlines()) == 1


def test_gateway_variables_come_first() -> None:
    """Before the file, and without one."""
    environ = {
        "GATEWAY_HOST": "0.0.0.0",
        "GATEWAY_PORT": "9000",
        "GATEWAY_REQUIRE_KEYS": "1",
        "GATEWAY_DATABASE_URL": "sqlite:///x.db",
        "GATEWAY_LOG_LEVEL": "DEBUG",
    }
    text = "models: {m: {targets: [{type: local}]}}\nserver: {port: 1, drain: 1s}\n"
    for settings in (loaded(text, **environ), from_environment(HOME | environ)):
        server = settings.server
        assert (server.host, server.port, server.require_keys) == ("0.0.0.0", 9000, True)
        assert (settings.database.url, settings.log.level) == ("sqlite:///x.db", "DEBUG")
    assert loaded(text, **environ).server.drain == 1.0


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "sqlite:////home/ada/.local/share/gguf-on-runpod/gateway.db"),
        ({"XDG_DATA_HOME": "/data"}, "sqlite:////data/gguf-on-runpod/gateway.db"),
        ({"XDG_DATA_HOME": "data"}, "sqlite:////home/ada/.local/share/gguf-on-runpod/gateway.db"),
    ],
)
def test_database_is_in_the_data_folder(environ: dict[str, str], url: str) -> None:
    """Unless another is set."""
    text = "models: {m: {targets: [{type: local}]}}\n"

    assert from_environment(HOME | environ).database.url == loaded(text, **environ).database.url == url
    assert loaded(f"{text}database: {{url: 'sqlite:///x'}}\n", **environ).database.url == "sqlite:///x"


def test_which_file() -> None:
    """--config, then GATEWAY_CONFIG, then gateway.yaml in this folder, else none."""
    nothing = find_file(None, {})
    Path("gateway.yaml").write_text("models: {m: {targets: [{type: local}]}}\n")

    assert nothing is None
    assert find_file(None, {"GATEWAY_CONFIG": ""}) == Path("gateway.yaml")
    assert find_file(None, {"GATEWAY_CONFIG": "a.yaml"}) == Path("a.yaml")
    assert find_file("b.yaml", {"GATEWAY_CONFIG": "a.yaml"}) == Path("b.yaml")
    assert list(read(Path("gateway.yaml"), HOME).models) == ["m"]
    assert list(read(None, HOME).models) == ["llama"]


def test_secrets_of_settings() -> None:
    """So that a log can leave them out, in each of their forms."""
    settings = loaded(
        """
        models:
          m:
            targets:
              - {type: openai, api_key: sk-1, base_url: "http://me:p%20w@host/v1"}
              - {type: openai}
              - {type: local, env: {HF_TOKEN: hf_1, N_CTX: "4096"}}
        database: {url: "postgresql://me:db@p/w@host/gateway"}
        """
    )

    assert secrets_of(settings) == {"sk-1", "p%20w", "p w", "hf_1", "db@p/w"}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
def test_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    """It may have no end, or no beginning: it is not waited for."""
    path = tmp_path / "gateway.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))

    with pytest.raises(ConfigError, match=r"regular file|cannot be read"):
        load(path, {})


def test_file_that_is_too_large(tmp_path: Path) -> None:
    """A configuration has some kilobytes."""
    path = tmp_path / "gateway.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)

    with pytest.raises(ConfigError, match="larger than"):
        load(path, {})


def test_file_that_cannot_be_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network mount that is gone: the gateway says so, and goes on."""
    never = threading.Event()
    monkeypatch.setattr(load_module, "READ_SECONDS", 0.01)
    monkeypatch.setattr(load_module, "_read_regular", lambda path: never.wait())

    with pytest.raises(ConfigError, match="mounted"):
        load(tmp_path / "gateway.yaml", {})
    never.set()
