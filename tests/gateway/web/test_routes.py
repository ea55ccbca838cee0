"""The dashboard's routes without a browser: what the page may ask for, and what other sites may not."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from local_gateway.accounts.auth import Principal
from local_gateway.accounts.keys import Keyring, new_key
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.errors import InvalidRequestError, RateLimitError
from local_gateway.storage.store import Store
from local_gateway.web import accounts_pages, assets
from local_gateway.web.sessions import FAILURE_SECONDS, IDLE_SECONDS, MAX_FAILURES, MAX_SECONDS, Sessions
from tests.gateway.asgi_client import Response
from tests.gateway.running_gateway import Running, running
from tests.gateway.targets.never_asked import FakeClock
from tests.gateway.targets.scripted import ScriptedBackend
from tests.gateway.usage_samples import NOON, paid

HOST = "127.0.0.1:8000"
OWN = {"host": HOST, "sec-fetch-site": "same-origin", "content-type": "application/json"}


def standing(**more: Any) -> AbstractAsyncContextManager[Running]:
    """A gateway whose one target is not asked."""
    return running(None, ScriptedBackend(), **more)


async def ask(gateway: Running, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Response]:
    """Status, body, and the response. A header that is empty is not sent."""
    raw = b"" if body is None else json.dumps(body).encode()
    response = await gateway.client.request(method, path, raw, **{"host": HOST, **headers})
    return response.status, response.body, response


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store(url)) as store:
        yield store


# Files


def test_vendored_files_are_what_was_published() -> None:
    """Each is the package's own file, with its licence beside it, and Dependabot sees its version."""
    vendor = files("local_gateway.web") / "static" / "vendor"
    listed = json.loads((vendor / "vendor.json").read_text())
    versions = json.loads((vendor / "package.json").read_text())["dependencies"]

    for one in listed:
        assert hashlib.sha256((vendor / one["file"]).read_bytes()).hexdigest() == one["sha256"], one["name"]
        assert (vendor / f"{one['name']}-{one['version']}.LICENSE").is_file()
        assert versions[one["name"]] == one["version"]
    names = {entry.name for entry in vendor.iterdir()}
    assert {one["file"] for one in listed} == {name for name in names if name.endswith(".js")}


def test_page_loads_nothing_from_elsewhere() -> None:
    """No address of another host in what a browser loads, no script or style in the page itself."""
    loaded = assets.load()
    page = loaded["index.html"].content.decode()

    assert "<style" not in page
    assert all(" src=" in part.partition(">")[0] for part in page.split("<script")[1:])
    for name, asset in loaded.items():
        if not name.startswith("vendor/"):
            text = asset.content.decode().replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text, name
            assert "https://" not in text, name


def test_policy_has_no_exception() -> None:
    assert "unsafe" not in assets.POLICY
    assert "default-src 'none'" in assets.POLICY


async def test_page_and_files() -> None:
    """With their types and the policy; a file that is known is not sent again."""
    async with standing() as gateway:
        status, body, response = await ask(gateway, "GET", "/")
        assert status == 200
        assert b'src="/ui/app.js"' in body
        assert response.headers["content-security-policy"] == assets.POLICY
        status, _, response = await ask(gateway, "GET", "/ui/vendor/lit-html-3.3.3.min.js")
        assert (status, response.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        known = response.headers["etag"]
        status, body, _ = await ask(gateway, "GET", "/ui/vendor/lit-html-3.3.3.min.js", if_none_match=known)
        assert (status, body) == (304, b"")
        for path in ("/ui/nothing", "/ui/../../cli.py", "/ui/vendor/package.json"):
            assert (await ask(gateway, "GET", path))[0] == 404


# Sessions


async def sign_in(gateway: Running, secret: str, **headers: str) -> str:
    """The cookie."""
    status, _, response = await ask(gateway, "POST", "/ui/session", {"key": secret}, **{**OWN, **headers})
    assert status == 200
    return response.headers["set-cookie"]


async def test_session_opens_what_its_key_may_see() -> None:
    async with standing() as gateway:
        secret = gateway.add_key()
        cookie = (await sign_in(gateway, secret)).partition(";")[0]
        assert json.loads((await ask(gateway, "GET", "/ui/session", cookie=cookie))[1])["signed_in"]
        assert (await ask(gateway, "GET", "/ui/models", cookie=cookie))[0] == 200
        assert (await ask(gateway, "GET", "/ui/models"))[0] == 401
        assert (await ask(gateway, "GET", "/ui/keys", cookie=cookie))[0] == 403


async def test_cookie_opens_nothing_of_the_api() -> None:
    """Another page of the same site cannot spend with it."""
    async with standing() as gateway:
        cookie = (await sign_in(gateway, gateway.add_key())).partition(";")[0]
        assert (await ask(gateway, "GET", "/v1/models", cookie=cookie))[0] == 401


@pytest.mark.parametrize(
    ("origin", "name", "is_secure"),
    [(f"http://{HOST}", "gateway_session", False), ("https://llm.example.com", "__Host-gateway", True)],
)
async def test_cookie_is_out_of_reach(origin: str, name: str, is_secure: bool) -> None:
    """Of scripts and of other sites; over HTTPS, also where a proxy ends it, of plain HTTP."""
    async with standing() as gateway:
        secret = gateway.add_key()
        cookie = await sign_in(gateway, secret, origin=origin)
        assert cookie.startswith(f"{name}=")
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert ("Secure" in cookie) == is_secure
        assert secret not in cookie


@pytest.mark.parametrize(
    "changed",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"sec-fetch-site": "", "origin": "http://evil.example"},
        {"sec-fetch-site": "", "origin": ""},
    ],
)
@pytest.mark.parametrize("has_keys", [True, False])
async def test_other_sites_cannot_change_anything(changed: dict[str, str], has_keys: bool) -> None:
    """With the visitor's cookie, or where no key is asked for."""
    async with standing() as gateway:
        headers = {**OWN, **changed}
        if has_keys:
            headers["cookie"] = (await sign_in(gateway, gateway.add_key(is_admin=True))).partition(";")[0]
        for path in ("/ui/keys", "/ui/requests/req_1/cancel", "/ui/v1/chat/completions"):
            assert (await ask(gateway, "POST", path, {}, **headers))[0] == 403


async def test_name_that_leads_here_is_refused_without_keys() -> None:
    """DNS rebinding: the page of evil.example is of the same origin as a gateway under that name."""
    async with standing(server={"insecure": True}) as gateway:
        for path in ("/ui/models", "/ui/session", "/ui/events"):
            assert (await ask(gateway, "GET", path, host="evil.example:8000"))[0] == 403


async def test_key_in_the_headers_needs_no_session() -> None:
    """For scripts: no other site knows it."""
    async with standing() as gateway:
        secret = gateway.add_key()
        assert (await ask(gateway, "GET", "/ui/models", authorization=f"Bearer {secret}"))[0] == 200


async def test_revoked_key_ends_its_sessions() -> None:
    async with standing() as gateway:
        cookie = (await sign_in(gateway, gateway.add_key())).partition(";")[0]
        gateway.gateway.auth.update(Keyring())
        assert (await ask(gateway, "GET", "/ui/models", cookie=cookie))[0] == 401


def test_sessions_end_by_themselves() -> None:
    """Unused for half a day, or after a week."""
    clock = FakeClock()
    sessions = Sessions(clock)
    idle, busy = sessions.open("k"), sessions.open("k")

    for _ in range(int(MAX_SECONDS // IDLE_SECONDS)):
        clock.now += IDLE_SECONDS - 1
        assert sessions.key_id(busy) == "k"
    assert sessions.key_id(idle) is None
    clock.now += IDLE_SECONDS - 1
    assert sessions.key_id(busy) is None


def test_guessing_is_slowed() -> None:
    clock = FakeClock()
    sessions = Sessions(clock)
    for _ in range(MAX_FAILURES):
        sessions.check_rate()
        sessions.failed()

    with pytest.raises(RateLimitError):
        sessions.check_rate()
    clock.now += FAILURE_SECONDS + 1
    sessions.check_rate()


# Usage and keys


def test_any_key_sees_its_own_usage(url: str, store: Store) -> None:
    """And by what it can be added up."""
    store.add([paid("k1", 1.0), paid("k2", 2.0)])

    assert accounts_pages.usage(url, principal("k1"), "model", "")["total"]["cost"] == 1.0
    everything = accounts_pages.usage(url, principal("k9", is_admin=True), "key", "")
    assert everything["total"]["cost"] == 3.0
    assert "key" not in accounts_pages.groupings(principal("k1"))


def test_what_workers_cost_is_for_administrators(url: str, store: Store) -> None:
    """By endpoint, beside all groupings, and as CSV; other keys learn nothing of it."""
    store.keep_runs([WorkerRun(endpoint="ep", worker_id="w", started=NOON, seconds=9.5, start_seconds=2.0, price=0.5)])
    store.add([paid("k1", 1.0, endpoint="ep", num_completion_tokens=1000)])
    admin = principal("k9", is_admin=True)

    (endpoint,) = accounts_pages.usage(url, admin, "model", "")["endpoints"]
    text = accounts_pages.usage_csv(url, admin, "endpoint", "2026-11-22")

    assert (endpoint["endpoint"], endpoint["billed_seconds"], endpoint["million_cost"]) == ("ep", 10, 5000.0)
    assert text.splitlines()[1] == "ep,1,10,2.0,0,1000,5.0,5000.0,1.0"
    assert accounts_pages.usage(url, principal("k1"), "model", "")["endpoints"] == []
    with pytest.raises(InvalidRequestError):
        accounts_pages.usage_csv(url, principal("k1"), "endpoint", "")


def test_spreadsheets_compute_nothing(url: str, store: Store) -> None:
    """Clients name models as they like."""
    store.add([paid("k1", 1.0, model="=HYPERLINK(1)"), paid("k1", 1.0, model="@x"), paid("k1", 1.0, model="llama")])
    text = accounts_pages.usage_csv(url, principal("k1"), "model", "")

    assert sorted(line.partition(",")[0] for line in text.splitlines()[1:]) == ["'=HYPERLINK(1)", "'@x", "llama"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "name"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "a", "models": ["gpt*4"]}, "beginnings that end in"),
        ({"name": "a", "max_rpm": 0}, "max_rpm"),
        ({"name": "a", "budget": -1}, "budget"),
        ({"name": "a", "hash": "x"}, "hash"),
    ],
)
def test_wrong_key_is_not_made(url: str, store: Store, body: dict[str, Any], told: str) -> None:
    with pytest.raises(Exception, match=told):
        accounts_pages.make_key(url, body)
    assert not store.all_keys()


def principal(key_id: str, *, is_admin: bool = False) -> Principal:
    key = new_key(key_id, created=0.0, is_admin=is_admin)[1]
    return Principal(key_id, key_id, replace(key, id=key_id))
