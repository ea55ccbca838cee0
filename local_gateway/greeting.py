"""What a person reads who has started the gateway: where it is, and how to chat."""

import shlex

from local_gateway.settings import GatewaySettings

QUESTION = "What is the capital of France?"


def greeting(settings: GatewaySettings, host: str, port: int) -> str:
    """Lines that can be pasted."""
    model = next((name for name in settings.models if not name.endswith("*")), "MODEL")
    url = f"http://{_shown(host)}:{port}"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    return "\n".join(
        [
            f"Serving {', '.join(settings.models)} at {url}/v1. Try it:",
            "",
            f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            "",
            f"  python -m local_gateway chat {model} --url {url}/v1",
            "",
        ]
    )


def _shown(host: str) -> str:
    """An address that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (to show, not to bind)
    return f"[{host}]" if ":" in host else host
