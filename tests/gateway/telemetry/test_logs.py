"""What is logged, in which form, and what never is."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from local_gateway.config.redactor import HIDDEN, Redactor
from local_gateway.config.settings import LogSettings
from local_gateway.telemetry.logs import log_request, request_id_var, setup
from tests.gateway.usage_samples import answered

SECRET = 'pass"word\\é-of-the-target'
log = logging.getLogger("local_gateway.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """pytest's handlers come back after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    token = request_id_var.set("")
    yield
    request_id_var.reset(token)
    root.handlers, root.level = handlers, level
    root.setLevel(level)


def stream_of(secrets: tuple[str, ...] = (), stream: io.StringIO | None = None, **settings: Any) -> io.StringIO:
    """Where logging goes now."""
    stream = stream or io.StringIO()
    setup(LogSettings(**settings), Redactor(secrets), stream)
    return stream


# Form


def test_line_of_json() -> None:
    """Programs read it: what happened when, to which request, and the fields that were given."""
    stream = stream_of(format="json")
    request_id_var.set("req_1")
    log.warning("target %s is slow", "a", extra={"target": "a", "seconds": 2.5, "odd": {1, 2}.__class__})
    line = json.loads(stream.getvalue())

    assert line.pop("time").endswith("+00:00")
    assert line.pop("odd") == "<class 'set'>"
    assert line == {
        "level": "WARNING",
        "logger": "local_gateway.test",
        "message": "target a is slow",
        "request_id": "req_1",
        "target": "a",
        "seconds": 2.5,
    }


def test_line_of_text() -> None:
    """People read it."""
    stream = stream_of(format="text")
    log.info("ready")

    assert stream.getvalue()[8:] == " INFO    ready\n"


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)], ids=["file", "terminal"])
def test_form_follows_the_reader(stream: io.StringIO, is_json: bool) -> None:
    """Text on a terminal, JSON elsewhere."""
    stream_of(stream=stream)
    log.info("ready")

    assert stream.getvalue().startswith("{") is is_json


def test_level() -> None:
    """Below it nothing is written, by other libraries neither."""
    stream = stream_of(level="WARNING")
    log.info("no")
    logging.getLogger("aiohttp.client").info("no")
    log_request(answered())
    log.error("yes")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["yes"]


def test_setup_again() -> None:
    """Each line is still written once."""
    before, after = stream_of(), stream_of()
    log.info("ready")

    assert before.getvalue() == ""
    assert after.getvalue().count("ready") == 1


@pytest.mark.parametrize("form", ["json", "text"])
def test_lines_cannot_be_forged(form: str) -> None:
    """What a client sends stays in its line, and commands no terminal."""
    stream = stream_of(format=form)
    log.info("model %s", "a\n12:00:00 INFO    all is well\x1b[2J\x9b")
    line = stream.getvalue()

    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "\x9b" not in line or form == "json"


def test_half_a_character() -> None:
    """It can be logged."""
    stream = stream_of(format="json")
    log.info("path %s", "\udc80")

    assert json.loads(stream.getvalue())["message"] == "path \udc80"


@pytest.mark.parametrize("form", ["json", "text"])
def test_exception(form: str) -> None:
    """With its traceback."""
    stream = stream_of(format=form)
    try:
        raise ValueError("bug\x1b[2J")
    except ValueError:
        log.exception("failed")
    line = stream.getvalue()

    assert "ValueError: bug" in line
    assert "Traceback" in line
    assert "\x1b" not in line
    assert (line.count("\n") == 1) is (form == "json")


# Secrets


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("secret", [SECRET, "plainsecret"])
def test_secrets_by_value(form: str, secret: str) -> None:
    """Wherever they are: in the message, an extra field, an exception."""
    stream = stream_of((secret,), format=form)
    try:
        raise ValueError(f"wrong key {secret}!")
    except ValueError:
        log.exception("asked with %s", secret, extra={"header": f"key={secret}", "more": {"deep": [secret]}})
    text = stream.getvalue()

    assert secret not in text
    assert json.dumps(secret)[1:-1] not in text
    assert text.count(HIDDEN) == (4 if form == "json" else 2)
    if form == "json":
        assert json.loads(text)["header"] == f"key={HIDDEN}"


def test_secret_beside_half_a_character() -> None:
    """It is found in the other spelling of JSON too."""
    stream = stream_of((SECRET,), format="json")
    log.info("%s %s", SECRET, "\udc80")

    assert json.loads(stream.getvalue())["message"] == f"{HIDDEN} \udc80"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.DEF-123_=~", f"Authorization: Bearer {HIDDEN}"),
        ("authorization: bearer  abc, next", f"authorization: bearer  {HIDDEN}, next"),
        ("'Incorrect API key provided: sk-proj-1234_5678.'", f"'Incorrect API key provided: sk-{HIDDEN}.'"),
        ("lg-0123456789abcdefghij", f"lg-{HIDDEN}"),
        ("rpa_ABCDEFGH12345678", f"rpa_{HIDDEN}"),
        ("task-oriented desk-sk-1 lg-1 rpa_x", "task-oriented desk-sk-1 lg-1 rpa_x"),
        ("a beard and a bearer", "a beard and a bearer"),
    ],
)
def test_secrets_by_their_looks(text: str, expected: str) -> None:
    """Also keys that are not in the configuration, as a client may send or a target repeat them."""
    assert Redactor()(text) == expected


def test_short_secret_is_none() -> None:
    """Many servers take any key, so people write "none"; that is no reason to make all lines unreadable."""
    assert Redactor(["", "none"])("none of it") == "none of it"


def test_secrets_that_begin_alike() -> None:
    """Nothing of the longer one stays."""
    assert Redactor(["secret-one", "secret-one-more"])("secret-one-more") == HIDDEN


def test_learned_secret() -> None:
    """Those of before a reload stay secret."""
    redactor = Redactor(["first-secret"])
    redactor.learn(["second-secret"])

    assert redactor("first-secret second-secret") == f"{HIDDEN} {HIDDEN}"


# Requests


def test_line_of_a_request() -> None:
    """What is known of it, and nothing that is not."""
    stream = stream_of(format="json")
    log_request(answered(num_prompt_tokens=7, first_token_seconds=0.25, total_seconds=1.5, sharing="hit"))
    line = json.loads(stream.getvalue())

    assert line["level"] == "INFO"
    assert line["message"] == "/chat/completions 200 ok in 1.500 s, 7+0 tokens, model llama, target local:demo"
    assert line["request_id"] == "req_1"
    assert (line["num_prompt_tokens"], line["num_completion_tokens"], line["first_token_seconds"]) == (7, 0, 0.25)
    assert line["sharing"] == "hit"
    assert "key_id" not in line
    assert "queue_seconds" not in line


def test_request_that_a_target_failed() -> None:
    """It is worth a look."""
    stream = stream_of(format="text")
    log_request(answered(status=502, outcome="target_error", alias="", target=""))
    line = stream.getvalue()

    assert "WARNING /chat/completions 502 target_error" in line
    assert line.endswith("model -, target -\n")
