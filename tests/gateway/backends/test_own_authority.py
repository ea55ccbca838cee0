"""Targets whose certificate an authority of one's own has signed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from local_gateway.backends.base import Call
from local_gateway.backends.http import HttpClient
from local_gateway.backends.openai import OpenAIBackend
from local_gateway.config.settings import OpenAITarget, TimeoutSettings
from local_gateway.errors import ConfigError, TargetUnreachableError

OWN = Path(__file__).with_name("own_authority.pem")  # made for this test: a certificate of 127.0.0.1, and its key
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


@asynccontextmanager
async def tls_target() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(OWN)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def ask(url: str, *, of_target: str = "", of_all: str = "") -> int:
    http = HttpClient(TimeoutSettings(), ca_file=of_all)
    try:
        backend = OpenAIBackend(OpenAITarget(type="openai", base_url=url, ca_file=of_target), http)
        assert (await backend.health()).is_ok == bool(of_target or of_all)
        upstream = await backend.open(Call(path="/chat/completions", body=b"{}"))
        await upstream.aclose()
        return upstream.status
    finally:
        await http.aclose()


async def test_an_authority_of_a_target_or_of_all() -> None:
    """Its file makes the target's certificate good, for requests and for `check`; without it nothing is sent."""
    async with tls_target() as url:
        assert await ask(url, of_target=str(OWN)) == 200
        assert await ask(url, of_all=str(OWN)) == 200
        with pytest.raises(TargetUnreachableError, match="its certificate is not accepted"):
            await ask(url)


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_without_an_authority(text: str | None, tmp_path: Path) -> None:
    """It is a mistake of the configuration that names the setting, found at the start."""
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="ca_file"):
        HttpClient(TimeoutSettings(), ca_file=str(path))
