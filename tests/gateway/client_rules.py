"""What real clients make of a server's answers: some run here in Node, of others the rules are written down.

The Node packages are installed once, into the folder where this repository keeps what is shared between clones.
"""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import pytest

NODE = Path(__file__).parent / "node"
MIN_NODE = 18  # the first with fetch
PATIENCE = 60.0  # seconds until a client that hangs fails
MAX_LINE_BYTES = 131_072  # that Open WebUI can read

# Of a proxy, not of an answer. Open WebUI hands all headers on to the browser.
NEVER_SENT = {"connection", "content-encoding", "keep-alive", "set-cookie", "trailer", "upgrade", "openai-organization"}


class ChatbotUi(NamedTuple):
    """What a person sees of an answer, and what became of the stream."""

    text: str
    end: Literal["closed", "failed", "open", "refused"]
    reason: str = ""
    status: int = 200
    code: str | None = None


async def chatbot_ui(
    url: str, *, model: str = "llama", rules: Literal["v3", "legacy"] = "v3", key: str = "none"
) -> ChatbotUi:
    body = {
        "model": model,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}],
        "max_tokens": 1000,
        "temperature": 1,
        "stream": True,
    }
    return ChatbotUi(**await run_node("chatbot_ui.mjs", rules, f"{url}/chat/completions", json.dumps(body), key=key))


async def chatbot_ui_of(pieces: Sequence[bytes], rules: Literal["v3", "legacy"] = "v3") -> ChatbotUi:
    """Without a server: each piece is read by itself."""
    body = json.dumps([base64.b64encode(piece).decode() for piece in pieces])
    return ChatbotUi(**await run_node("chatbot_ui.mjs", rules, "-", body, key=""))


async def openai_node(url: str, *, model: str, key: str = "none") -> dict[str, Any]:
    """Everything its script tries, by name."""
    return await run_node("openai_client.mjs", url, model, key=key)


async def run_node(script: str, *args: str, key: str) -> dict[str, Any]:
    """What a script prints."""
    folder = await asyncio.to_thread(clients_folder)
    process = await asyncio.create_subprocess_exec(
        "node",
        str(NODE / script),
        *args,
        env={"PATH": os.environ["PATH"], "CLIENTS_DIR": str(folder), "CLIENT_KEY": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    result: dict[str, Any] = json.loads(output)
    return result


@cache
def clients_folder() -> Path:
    """Where the packages of node/package.json are installed. Without Node the test is skipped, but not in CI."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        missing("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < MIN_NODE:
        missing(f"node is {version}, older than {MIN_NODE}")
    wanted = (NODE / "package.json").read_bytes()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gguf-on-runpod"
    folder = home / f"node-clients-{hashlib.sha256(wanted).hexdigest()[:12]}"
    if not (folder / "node_modules").is_dir():
        install(wanted, folder)
    return folder


def install(package: bytes, folder: Path) -> None:
    """In a folder beside it first, so that one that was broken off is never taken for whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        (new / "package.json").write_bytes(package)
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=new, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"npm cannot install the clients: {done.stderr.strip()[-300:]}")
        if not folder.exists():
            new.rename(folder)


def missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


# Clients that are not run here


def open_webui_complaints(status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
    """Whether it can hand an answer on: an event stream by its type only, in lines that it can hold."""
    names = {name.lower() for name in headers}
    complaints = [f"it would send the header {name} to the browser" for name in sorted(names & NEVER_SENT)]
    is_events = headers.get("content-type", "").startswith("text/event-stream")
    if is_events and "content-length" in names:
        complaints.append("an event stream has no length")
    if status >= 400 and is_events:
        complaints.append("an error is no event stream")
    if status >= 400 and not isinstance(json.loads(body)["error"]["message"], str):
        complaints.append("an error has no message")
    if is_events and max(map(len, body.split(b"\n"))) > MAX_LINE_BYTES:
        complaints.append("a line is too long")
    return complaints


def models_complaints(models: dict[str, Any]) -> list[str]:
    """What Open WebUI, LobeChat and LibreChat need of the list of models."""
    complaints = [] if models.get("object") == "list" else ["it is no list"]
    for model in models["data"]:
        if not isinstance(model.get("id"), str):
            complaints.append("a model has no id")
        if type(model.get("created", 0)) is not int:  # LobeChat calls a number's method on it
            complaints.append(f"{model['id']}: created is no whole number")
        pricing = model.get("pricing")
        if pricing is not None and {type(pricing.get("prompt")), type(pricing.get("completion"))} != {str}:
            complaints.append(f"{model['id']}: LibreChat reads prices as text, per token")
    return complaints
