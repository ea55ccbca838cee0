"""Web pages and a gateway without keys."""

import pytest

from local_gateway.edge.browser_guard import check_host, check_origin
from local_gateway.errors import RequestError
from tests.gateway.running_gateway import running
from tests.gateway.targets.scripted import ScriptedBackend


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        ("", (), True),
        ("https://evil.example", (), False),
        ("null", (), False),
        ("https://mine.example", ("https://mine.example",), True),
        ("https://mine.example.evil", ("https://mine.example",), False),
        ("https://any.example", ("*",), True),
    ],
)
def test_origins(origin: str, allowed: tuple[str, ...], passes: bool) -> None:
    """Browsers say which page calls; programs do not."""
    assert _passes(lambda: check_origin(origin, allowed)) is passes


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("10.1.2.3", True),
        ("", True),
        ("host.docker.internal:8000", True),
        ("app.localhost", True),
        ("own.example:8000", True),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("[::1", False),
    ],
)
def test_hosts(host: str, passes: bool) -> None:
    """A name that was made to point here is not ours."""
    assert _passes(lambda: check_host(host, "own.example")) is passes


def _passes(check: object) -> bool:
    assert callable(check)
    try:
        check()
    except RequestError:
        return False
    return True


async def test_page_that_calls() -> None:
    """It is refused before anything is done for it."""
    backend = ScriptedBackend()
    async with running(None, backend) as here:
        refused = await here.client.post("/v1/chat/completions", {"model": "llama"}, origin="https://evil.example")
        renamed = await here.client.get("/v1/models", host="evil.example")

    assert (refused.status, renamed.status, refused.json()["error"]["code"]) == (403, 403, "forbidden")
    assert not backend.calls


async def test_gateway_with_keys() -> None:
    """There the key decides, and a page that has one may call."""
    async with running(None, ScriptedBackend()) as here:
        secret = here.add_key()
        response = await here.client.get(
            "/v1/models", origin="https://page.example", host="gw.example", authorization=f"Bearer {secret}"
        )

    assert response.status == 200


async def test_cors() -> None:
    """Origins that are configured get their preflight and may read the answers."""
    async with running(None, ScriptedBackend(), server={"cors_origins": ["https://chat.example"]}) as here:
        preflight = await here.client.request(
            "OPTIONS",
            "/v1/chat/completions",
            origin="https://chat.example",
            access_control_request_method="POST",
            access_control_request_headers="authorization,content-type",
        )
        listing = await here.client.get("/v1/models", origin="https://chat.example")

    assert preflight.status == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert listing.headers["access-control-allow-origin"] == "https://chat.example"
