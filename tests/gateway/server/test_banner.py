"""What a person reads who has started the gateway."""

from typing import Any

import pytest

from local_gateway.config.settings import GatewaySettings
from local_gateway.server.banner import greeting


def lines_for(
    *models: tuple[str, dict[str, Any]], host: str = "127.0.0.1", port: int = 8000, needs_key: bool = False
) -> str:
    parts = {name: {"targets": [target]} for name, target in models}
    return greeting(GatewaySettings.model_validate({"models": parts}), host, port, needs_key=needs_key)


def test_worker_on_this_machine() -> None:
    """Where it is, that its model loads, and how to chat."""
    text = lines_for(("llama", {"type": "local"}))

    assert text.startswith("Serving llama at http://127.0.0.1:8000/v1\nThe model is loading")
    assert '-d \'{"model": "llama", "messages": [' in text
    assert "OPENAI_API_HOST=http://127.0.0.1:8000 " in text
    assert "--url" not in text


def test_another_port() -> None:
    """The chat has to be told; nothing loads where there is no worker."""
    text = lines_for(("gpt-*", {"type": "openai"}), ("mine", {"type": "openai"}), port=9)

    assert "chat --url http://127.0.0.1:9/v1\n" in text
    assert '"model": "mine"' in text
    assert "loading" not in text


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")])
def test_addresses(host: str, shown: str) -> None:
    """One that can be reached from here."""
    assert f"http://{shown}:8000/v1" in lines_for(("m", {"type": "openai"}), host=host)


def test_keys() -> None:
    """Where clients need a key, every way to chat takes it from the shell, and `none` is in no line."""
    text = lines_for(("m", {"type": "openai"}), needs_key=True)

    assert "export GATEWAY_API_KEY=" in text
    assert "keys create NAME" in text
    assert '-H "Authorization: Bearer $GATEWAY_API_KEY"' in text
    assert text.count('OPENAI_API_KEY="$GATEWAY_API_KEY"') == 2
    assert 'api_key=os.environ["GATEWAY_API_KEY"]' in text
    assert "none" not in text
    assert "GATEWAY_API_KEY" not in lines_for(("m", {"type": "openai"}))
