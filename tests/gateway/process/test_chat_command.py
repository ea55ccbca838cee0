"""`python -m local_gateway chat` as a process: through a pipe and in a terminal."""

import asyncio
import os
import sys

import pytest

from tests.gateway.targets.on_socket import FakeOpenAI, Received
from tests.gateway.targets.on_socket import Reply as Sent
from tests.gateway.terminal import CTRL_C, CTRL_D, ROOT, in_terminal
from tests.gateway.wire_samples import text_events


def chat_command(url: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "local_gateway", "chat", "--url", url, *args]


def environment() -> dict[str, str]:
    names = ("PATH", "HOME")
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # not for this machine
    return {name: os.environ[name] for name in names} | {"TERM": "xterm", "GATEWAY_API_KEY": "lg-secret"} | proxy


async def run_chat(url: str, *args: str, question: str = "Hi") -> tuple[int, str, str]:
    """Through a pipe: exit status, answer, errors."""
    process = await asyncio.create_subprocess_exec(
        *chat_command(url, *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    out, err = await process.communicate(question.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_piped() -> None:
    """The first model of the gateway answers; the key from the environment is sent."""
    async with FakeOpenAI() as gateway:
        status, out, err = await run_chat(gateway.url)
        sent = gateway.received[-1]

    assert (status, err) == (0, "")
    assert out.endswith("\n")
    assert out.strip()
    assert sent.json["model"] == "model"
    assert sent.headers["authorization"] == "Bearer lg-secret"


async def test_an_error_in_a_pipe() -> None:
    """One line, in the gateway's words, and exit status 1."""

    def script(request: Received) -> Sent:
        return Sent.error(404, "The model `x` does not exist.") if request.method == "POST" else Sent.json({"data": []})

    async with FakeOpenAI(script) as gateway:
        assert await run_chat(gateway.url, "x") == (1, "", "error: The model `x` does not exist.\n")
        status, _, err = await run_chat(gateway.url)
    assert (status, err) == (1, f"error: The gateway at {gateway.url} has no model for you.\n")


async def test_no_gateway() -> None:
    """Says where one was looked for, and what to do."""
    async with FakeOpenAI() as gateway:
        url = gateway.url
    assert await run_chat(url) == (1, "", f"error: There is no gateway at {url}. Start one (make run), or say --url.\n")


@pytest.mark.parametrize("body", [b"<html>Hello</html>", b"{}", b"[]", b'{"data": [{}]}'])
async def test_something_else_at_the_address(body: bytes) -> None:
    """Is said, without a traceback."""
    async with FakeOpenAI(lambda _: Sent([body], headers={"content-type": "application/json"})) as gateway:
        status, out, err = await run_chat(gateway.url)

    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ")


async def test_in_a_terminal() -> None:
    """Ctrl-C stops an answer within it and before it, so that the gateway stops too; Ctrl-D leaves in silence."""
    hold = asyncio.Event()

    def script(request: Received) -> Sent:
        if request.method == "GET":
            return Sent.json({"object": "list", "data": [{"id": "llama", "object": "model"}]})
        match request.json["messages"][-1]["content"]:
            case "endless":
                return Sent([*text_events("Once", "upon")[:3], hold])
            case "silent":
                return Sent(held=hold)
        return Sent(text_events("Hello"))

    async with FakeOpenAI(script) as gateway:
        with in_terminal(chat_command(gateway.url), environment()) as terminal:
            await terminal.until("> ")
            terminal.type("Hi\n")
            await terminal.until("Hello")
            await terminal.until("> ")
            terminal.type("endless\n")
            await terminal.until("Once")
            terminal.type(CTRL_C)
            await terminal.until("stopped")
            terminal.type("silent\n")
            await terminal.until("waiting for llama")
            await gateway.until(lambda: len(gateway.received) == 4)
            terminal.type(CTRL_C)
            await terminal.until("stopped")
            await gateway.until(lambda: len(gateway.left) == 2)
            await terminal.until("> ")
            terminal.type(CTRL_D)

            assert await terminal.end() == 0
        hold.set()

    assert "Traceback" not in terminal.output
    assert "lg-secret" not in terminal.output
