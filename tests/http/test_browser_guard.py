"""A worker without a key answers no web pages, and on a loopback address no foreign names."""

import pytest

from tests.fake_worker import FakeWorker, fake_worker
from tests.http.test_edge import CHAT, HI, client_of, edge_of

EVERYWHERE = {"host": "0.0.0.0"}  # a setting, nothing listens


async def status_of(settings: dict[str, str], headers: dict[str, str]) -> int:
    with fake_worker() as worker:
        return await _status(worker, settings, headers)


async def _status(worker: FakeWorker, settings: dict[str, str], headers: dict[str, str]) -> int:
    async with client_of(edge_of(worker, **settings)) as client:
        response = await client.post(CHAT, json=HI, headers={"content-type": "text/plain", **headers})
    if response.status_code == 403:
        assert response.json()["error"]["code"] == "forbidden"
    return response.status_code


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://localhost.evil.example", "file://"]
)
@pytest.mark.parametrize("settings", [{}, EVERYWHERE], ids=["loopback", "everywhere"])
async def test_foreign_origins(settings: dict[str, str], origin: str) -> None:
    """A page that may send would use this machine's GPU, though it cannot read the answer."""
    assert await status_of(settings, {"host": "localhost:8001", "origin": origin}) == 403


async def test_own_origin() -> None:
    """A page that this address serves, through a proxy for example, is no foreign one."""
    assert await status_of({}, {"host": "localhost:8001", "origin": "http://localhost:8001"}) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8001", "localhost.evil.example", "127.0.0.1.nip.io"])
async def test_foreign_names(host: str) -> None:
    """By DNS rebinding such a name leads here, and the page behind it may read the answers."""
    assert await status_of({}, {"host": host}) == 403
    assert await status_of({"host": "::1"}, {"host": host}) == 403


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001", "api.localhost", "host.docker.internal:1"]
)
async def test_own_names(host: str) -> None:
    """Addresses and names that cannot be made to point here."""
    assert await status_of({}, {"host": host}) == 200


@pytest.mark.parametrize("host", ["abc123.api.runpod.ai", "10.1.2.3", ""])
async def test_any_name_behind_a_load_balancer(host: str) -> None:
    """There the worker listens everywhere and does not know its name."""
    assert await status_of(EVERYWHERE, {"host": host}) == 200


async def test_a_key_is_protection_enough() -> None:
    """No page knows it."""
    headers = {"host": "evil.example", "origin": "https://evil.example"}
    assert await status_of({"api_key": "secret"}, headers) == 401
    assert await status_of({"api_key": "secret"}, {**headers, "authorization": "Bearer secret"}) == 200
