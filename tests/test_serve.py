"""What `serve` says when it is ready. How it serves is shown in test_http.py and end to end."""

from types import SimpleNamespace
from typing import cast

import pytest

from handler.serve import greeting
from handler.settings import Settings
from handler.worker import Worker

WORKER = cast(Worker, SimpleNamespace(api=SimpleNamespace(names=SimpleNamespace(names=("llama", "other")))))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001/v1"),
        ("0.0.0.0", "http://127.0.0.1:8001/v1"),
        ("::", "http://[::1]:8001/v1"),
    ],
)
def test_the_greeting_has_an_address_that_works_from_here(host: str, url: str) -> None:
    """Who listens everywhere is not found at the address of everywhere."""
    assert f"curl {url}/chat/completions -H 'Content-Type" in greeting(Settings.from_env({"HOST": host}), WORKER)


def test_the_greeting_does_not_show_the_key() -> None:
    """A terminal is no place for secrets."""
    text = greeting(Settings.from_env({"API_KEY": "secret"}), WORKER)
    assert "Bearer YOUR_API_KEY" in text
    assert "secret" not in text
