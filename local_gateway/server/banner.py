"""The text at the start of the gateway: its address, and ways to chat."""

import shlex
import sys
from pathlib import Path

from local_gateway.config.settings import GatewaySettings, LocalTarget

QUESTION = "What is the capital of France?"
WIDTH = 16
DOCS = "docs/clients.md"


def greeting(settings: GatewaySettings, host: str, port: int) -> str:
    """Lines that can be pasted. They come when the gateway listens."""
    address = f"http://{_shown(host)}:{port}"
    model = next((name for name in settings.models if not name.endswith("*")), "MODEL")
    ways = {
        "in this terminal": _chat(address),
        "curl": _curl(address, model),
        "Python": f'OpenAI(base_url="{address}/v1", api_key="none"), model="{model}"',
        "chatbot-ui": f"OPENAI_API_HOST={address} OPENAI_API_KEY=none npm run dev",
        "Open WebUI": f"docker run --network=host -e OPENAI_API_BASE_URL={address}/v1 -e OPENAI_API_KEY=none "
        "ghcr.io/open-webui/open-webui:main",
    }
    loading = "The model is loading; what is asked now is answered when it is there.\n" if _has_worker(settings) else ""
    lines = "\n".join(f"  {name:<{WIDTH}}  {way}" for name, way in ways.items())
    models = ", ".join(settings.models)
    return f"Serving {models} at {address}/v1\n{loading}\n{lines}\n\nMore clients: {DOCS}. Ctrl-C ends it.\n"


def _chat(address: str) -> str:
    option = "" if address.endswith(":8000") else f" --url {address}/v1"
    return f"{_interpreter()} -m local_gateway chat{option}"


def _curl(address: str, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    return f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _interpreter() -> str:
    """As short as it can be pasted from where we were started."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _has_worker(settings: GatewaySettings) -> bool:
    return any(isinstance(target, LocalTarget) for model in settings.models.values() for target in model.targets)


def _shown(host: str) -> str:
    """An address that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (to show, not to bind)
    return f"[{host}]" if ":" in host else host
