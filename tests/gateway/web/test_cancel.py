"""Cancel, without a browser: who may, what the client is told, what is recorded, and that the target is let go of."""

import asyncio
import json

from tests.gateway.running_gateway import Running, running
from tests.gateway.targets.scripted import ROLE, ScriptedBackend, ScriptedUpstream, chunk, json_answer

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "x"}]}
OWN = {"host": "127.0.0.1:8000", "sec_fetch_site": "same-origin", "content_type": "application/json"}


async def until_running(gateway: Running) -> str:
    """The id of the only request."""
    live_requests = gateway.gateway.live_requests
    async with asyncio.timeout(5):
        while not (found := [live.id for live in live_requests if live.view().state == "streaming"]):  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0)
    (request_id,) = found
    return request_id


async def test_stream_ends_with_an_error() -> None:
    """In its own form, so that a client does not take what came for all."""
    never = asyncio.Event()
    upstream = ScriptedUpstream([ROLE, chunk("Hel"), never])
    async with running(None, ScriptedBackend(upstream)) as gateway:
        body = json.dumps({**CHAT, "stream": True}).encode()
        response, work = gateway.client.start("POST", "/v1/chat/completions", body)
        request_id = await until_running(gateway)
        cancelling = await gateway.client.request("POST", f"/ui/requests/{request_id}/cancel", b"{}", **OWN)
        await work
        assert cancelling.status == 200
        assert b"Hel" in response.body
        assert b'"code":"cancelled"' in response.body.replace(b'": ', b'":')
        assert upstream.is_closed
        assert (gateway.record.outcome, gateway.record.status) == ("cancelled", 499)


async def test_waiting_request_is_told_at_once() -> None:
    """With a status that no client tries again."""
    never = asyncio.Event()
    backend = ScriptedBackend(never, json_answer({}))
    async with running(None, backend) as gateway:
        response, work = gateway.client.start("POST", "/v1/chat/completions", json.dumps(CHAT).encode())
        await backend.called.wait()
        (live,) = gateway.gateway.live_requests
        await gateway.client.request("POST", f"/ui/requests/{live.id}/cancel", b"{}", **OWN)
        await work
        assert response.status == 499
        assert backend.num_cancelled == 1


async def test_key_cancels_its_own_alone() -> None:
    """Of others it does not even learn that they run."""
    upstream = ScriptedUpstream([ROLE, chunk("Hel"), asyncio.Event()])
    async with running(None, ScriptedBackend(upstream)) as gateway:
        secret = gateway.add_key()
        body = json.dumps({**CHAT, "stream": True}).encode()
        response, work = gateway.client.start("POST", "/v1/chat/completions", body, authorization=f"Bearer {secret}")
        request_id = await until_running(gateway)
        other = gateway.add_key()
        path = f"/ui/requests/{request_id}/cancel"
        assert (await gateway.client.request("POST", path, b"{}", authorization=f"Bearer {other}")).status == 404
        response.hung_up.set()
        await work
