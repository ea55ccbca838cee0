"""The text at the start of the gateway: its address, and ways to chat."""

import shlex
import sys
from pathlib import Path

from local_gateway.config.settings import GatewaySettings, LocalTarget

QUESTION = "What is the capital of France?"
WIDTH = 16
DOCS = "docs/clients.md"
KEY_VARIABLE = "GATEWAY_API_KEY"


def greeting(settings: GatewaySettings, host: str, port: int, *, needs_key: bool) -> str:
    """Lines that can be pasted. They come when the gateway listens.

    Where a key is needed the lines take it from the shell's variable GATEWAY_API_KEY, as the `chat` command does.
    """
    address = f"http://{_shown(host)}:{port}"
    model = next((name for name in settings.models if not name.endswith("*")), "MODEL")
    key = f'"${KEY_VARIABLE}"' if needs_key else "none"
    key_in_python = f'os.environ["{KEY_VARIABLE}"]' if needs_key else '"none"'
    ways = {
        "in this terminal": _chat(address),
        "curl": _curl(address, model, needs_key=needs_key),
        "Python": f'OpenAI(base_url="{address}/v1", api_key={key_in_python}), model="{model}"',
        "chatbot-ui": f"OPENAI_API_HOST={address} OPENAI_API_KEY={key} npm run dev",
        "Open WebUI": f"docker run --network=host -e OPENAI_API_BASE_URL={address}/v1 -e OPENAI_API_KEY={key} "
        "ghcr.io/open-webui/open-webui:main",
    }
    loading = "The model is loading; what is asked now is answered when it is there.\n" if _has_worker(settings) else ""
    keys = f"Clients need a key: export {KEY_VARIABLE}=... ({_command('keys create NAME')} makes one).\n"
    notes = loading + (keys if needs_key else "")
    lines = "\n".join(f"  {name:<{WIDTH}}  {way}" for name, way in ways.items())
    models = ", ".join(settings.models)
    return f"Serving {models} at {address}/v1\n{notes}\n{lines}\n\nMore clients: {DOCS}. Ctrl-C ends it.\n"


def _chat(address: str) -> str:
    option = "" if address.endswith(":8000") else f" --url {address}/v1"
    return _command(f"chat{option}")


def _command(words: str) -> str:
    return f"{_interpreter()} -m local_gateway {words}"


def _curl(address: str, model: str, *, needs_key: bool) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    return f"curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


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
