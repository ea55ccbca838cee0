"""What each kind of key reaches, by path and method, whatever its body says."""

import gzip
import json
from typing import Any

import pytest

from tests.gateway.running_gateway import Running, running
from tests.gateway.targets.scripted import ScriptedBackend, json_answer

MODELS = {"cheap": {"targets": [{"type": "openai", "name": "one"}]}, "secret": {"targets": [{"type": "openai"}]}}
OK = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
ACCOUNT = [
    ("GET", "/v1/files"),
    ("DELETE", "/v1/files/file-1"),
    ("GET", "/v1/files/file-1/content"),
    ("POST", "/v1/files"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/responses/resp_of_another_key"),
    ("DELETE", "/v1/responses/resp_of_another_key"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("GET", "/v1/chat/completions/chatcmpl-1"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/vector_stores"),
    ("POST", "/v1/brand/new"),
    ("GET", "/v1/organization/costs"),
    ("POST", "/v1/responses/compact"),
    ("POST", "/v1/audio/voices"),
    ("POST", "/v1/audio/voice_consents"),
    ("POST", "/v1/images/generations/img_1"),
    ("POST", "/v1/embeddings/cheap"),
    ("POST", "/v1/containers"),
    ("HEAD", "/v1/files/file-1"),
]
LIMITS: dict[str, dict[str, Any]] = {"models": {"models": ("cheap",)}, "budget": {"budget": 1.0}, "none": {}}


async def call(here: Running, method: str, path: str, secret: str, body: object = None, **headers: str) -> Any:
    raw = b"" if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {secret}" if secret else "", **headers}
    return await here.client.request(method, path, raw, **headers)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize(("method", "path"), ACCOUNT)
async def test_account_paths(method: str, path: str, limits: dict[str, Any]) -> None:
    """They are for administrators. A body that names a model the key may use opens none of them."""
    backend = ScriptedBackend(json_answer({}), json_answer({}))
    async with running(MODELS, backend, ScriptedBackend()) as here:
        secret = here.add_key(**limits)
        statuses = [
            (await call(here, method, path, secret, body)).status for body in (None, {"model": "cheap"}, {"model": "x"})
        ]
        admin = here.add_key(is_admin=True, **limits)
        allowed = await call(here, method, path, admin, {"model": "cheap"})

    assert statuses == [404, 404, 404]
    assert allowed.status == 200
    assert [call.path for call in backend.calls] == [path.removeprefix("/v1")]
    assert backend.calls[0].body == b'{"model": "cheap"}'


FORM = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ncheap\r\n--x--\r\n'
NAMED = b'{"model": "cheap"}'


@pytest.mark.parametrize(
    ("path", "raw", "headers"),
    [
        ("/openai/v1/files", NAMED, {}),
        ("//v1//files", NAMED, {}),
        ("/api/v1/batches", NAMED, {}),
        ("/v1/files?model=cheap", b"", {}),
        ("/v1/files", FORM, {"content_type": "multipart/form-data; boundary=x"}),
        ("/v1/files", gzip.compress(NAMED), {"content_encoding": "gzip"}),
        ("/v1/files", NAMED, {"x_http_method_override": "GET", "content_type": "text/plain"}),
        ("/openai/deployments/cheap/files", NAMED, {}),
        ("/openai/deployments/cheap/chat/completions/chatcmpl-1", NAMED, {}),
        ("/v1/chat/completions/../files", NAMED, {}),
        ("/v1/FILES", NAMED, {}),
    ],
)
async def test_account_paths_in_other_words(path: str, raw: bytes, headers: dict[str, str]) -> None:
    """Prefixes, forms, compression and other headers open none of them either (edge.md B1)."""
    async with running(MODELS, ScriptedBackend(), ScriptedBackend()) as here:
        secret = here.add_key(models=("cheap",))
        named = {"authorization": f"Bearer {secret}", "content_type": "application/json", **headers}
        assert (await here.client.request("POST", path, raw, **named)).status == 404


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
async def test_answers_in_the_background(path: str, stream: bool) -> None:
    """What is made after the request belongs to the account: no budget would see it."""
    backend = ScriptedBackend()
    async with running(MODELS, backend, ScriptedBackend()) as here:
        body = {"model": "cheap", "input": "x", "background": True, "stream": stream}
        response = await call(here, "POST", path, here.add_key(budget=1.0), body)

    assert (response.status, response.json()["error"]["param"]) == (400, "background")
    assert backend.calls == []


async def test_without_keys_all_is_open() -> None:
    """On this machine, whose user is the operator."""
    backend = ScriptedBackend(*(json_answer({}) for _ in ACCOUNT))
    async with running(MODELS, backend, ScriptedBackend()) as here:
        statuses = {(await call(here, method, path, "")).status for method, path in ACCOUNT}
        metrics = await here.client.get("/metrics")

    assert (statuses, metrics.status) == ({200}, 200)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "secret"},
        {"model": "cheap", "Model": "secret"},
        {"model": "cheap", "MODEL": "secret"},
        {"model": "cheap", "models": ["secret"]},
        {"model": "cheap", "tools": [{"type": "image_generation", "model": "secret"}]},
        {"model": "cheap", "extra_body": {"model": "secret"}},
        {"model": "cheap", "fallbacks": [{"cheap": ["secret"]}]},
        {"model": "cheap", "context_window_fallbacks": [{"cheap": ["cheap", "secret"]}]},
        {"model": "cheap", "provider": {"options": [{"models": ["secret"]}]}},
        {"model": "cheap", "session": {"input_audio_transcription": {"Model": "secret"}}},
        {"model": ["secret"]},
        {},
    ],
)
async def test_models_that_a_key_may_not_use(body: dict[str, Any]) -> None:
    """Not by another spelling, not for a tool, not as a provider's own fallback."""
    backend, other = ScriptedBackend(), ScriptedBackend()
    async with running(MODELS, backend, other) as here:
        secret = here.add_key(models=("cheap",))
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/images/generations", "/v1/moderations"):
            assert (await call(here, "POST", path, secret, {"messages": [], **body})).status in (400, 404)

    assert backend.calls == other.calls == []


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"])
async def test_forms_go_to_their_model(path: str) -> None:
    """The model that the form names, with the target's own name for it; and only for keys that may use it."""
    models = {"gpt-*": MODELS["secret"], "whisper-1": {"targets": [{"type": "openai", "name": "w", "model": "large"}]}}
    paid, mine = ScriptedBackend(), ScriptedBackend(json_answer({"text": "hi"}))
    raw = (
        b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
    )
    async with running(models, paid, mine) as here:
        other = here.add_key(models=("gpt-*",))
        named = {"content-type": "multipart/form-data; boundary=x", "authorization": f"Bearer {other}"}
        refused = await here.client.request("POST", path, raw, **named)
        secret = here.add_key(models=("whisper-1",))
        response = await here.client.request("POST", path, raw, **{**named, "authorization": f"Bearer {secret}"})

    assert (refused.status, response.status) == (404, 200)
    assert paid.calls == []
    assert b"\r\n\r\nlarge\r\n" in mine.calls[0].body
    assert b"RIFF" in mine.calls[0].body
    assert here.records[-1].model == "whisper-1"


async def test_deployments() -> None:
    """Azure's clients name the model in the path, and send their key in a header of its own."""
    backend = ScriptedBackend(json_answer(OK), json_answer(OK))
    async with running(MODELS, backend, ScriptedBackend()) as here:
        secret = here.add_key(models=("cheap",))
        path = "/openai/deployments/cheap/chat/completions"
        first = await call(here, "POST", path, "", {"messages": []}, api_key=secret)
        second = await call(here, "POST", path, "", {"messages": [], "model": "secret"}, api_key=secret)
        third = await call(here, "POST", "/openai/deployments/secret/chat/completions", "", {}, api_key=secret)

    assert (first.status, second.status, third.status) == (200, 200, 404)
    assert [json.loads(call.body)["model"] for call in backend.calls] == ["cheap", "cheap"]
    assert {call.path for call in backend.calls} == {"/chat/completions"}


async def test_forms_without_a_model() -> None:
    """They go to the first OpenAI target as they came, where the key may use every model."""
    backend = ScriptedBackend(json_answer({}))
    raw = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
    async with running(MODELS, backend, ScriptedBackend()) as here:
        named = {"content-type": "multipart/form-data; boundary=x"}
        secret = here.add_key(models=("cheap",))
        path = "/v1/audio/transcriptions"
        refused = await here.client.request("POST", path, raw, **named, authorization=f"Bearer {secret}")
        secret = here.add_key()
        allowed = await here.client.request("POST", path, raw, **named, authorization=f"Bearer {secret}")

    assert (refused.status, allowed.status) == (400, 200)
    assert (backend.calls[0].body, backend.calls[0].content_type) == (raw, "multipart/form-data; boundary=x")


async def test_idempotency_keys() -> None:
    """Two keys that use the same one do not meet at the target."""
    backend = ScriptedBackend(*(json_answer(OK) for _ in range(3)))
    async with running(MODELS, backend, ScriptedBackend()) as here:
        for limits in ({"name": "ann"}, {"name": "bob"}):
            secret = here.add_key(budget=10.0) if limits else ""
            await call(here, "POST", "/v1/chat/completions", secret, {"model": "cheap"}, idempotency_key="same")
        await call(here, "POST", "/v1/chat/completions", secret, {"model": "cheap"}, idempotency_key="same")

    sent = [call.headers["idempotency-key"] for call in backend.calls]
    assert len(set(sent)) == 2
    assert sent[1] == sent[2]
    assert "same" not in sent


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/responses", "/nothing", "/v1/models/x/y"])
async def test_websockets(path: str) -> None:
    """Refused in words, before a target hears of it."""
    backend = ScriptedBackend()
    async with running(MODELS, backend, ScriptedBackend()) as here:
        response = await call(here, "GET", path, "", upgrade="websocket", connection="upgrade")

    if path != "/v1/models/x/y":  # a page of the gateway's own
        assert (response.status, response.json()["error"]["code"]) == (400, "websocket_not_supported")
    assert backend.calls == []


@pytest.mark.parametrize(
    "path",
    ["//v1/chat/completions", "/v1//chat/completions", "/v1/v1/chat/completions", "/api/v1/chat/completions",
     "/openai/v1/chat/completions", "/chat/completions", "/v1/chat/completions/"],
)  # fmt: skip
async def test_base_urls(path: str) -> None:
    """Whatever a person wrote down as the base URL."""
    backend = ScriptedBackend(json_answer(OK))
    async with running(MODELS, backend, ScriptedBackend()) as here:
        response = await call(here, "POST", path, "", {"model": "cheap"})

    assert (response.status, backend.calls[0].path) == (200, "/chat/completions")


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "/api/v1/models", "/openai/v1/models", "/v1/v1/models"])
async def test_pages_under_base_urls(path: str) -> None:
    """The list of models too."""
    async with running(MODELS, ScriptedBackend(), ScriptedBackend()) as here:
        response = await here.client.get(path)

    assert [model["id"] for model in response.json()["data"]] == ["cheap", "secret"]


@pytest.mark.parametrize(
    "origin", ["app://obsidian.md", "tauri://localhost", "chrome-extension://abcdef", "null", "http://localhost:3000"]
)
async def test_origins_of_apps(origin: str) -> None:
    """Desktop applications and extensions, where they are listed; also for a gateway in a private network."""
    asked: dict[str, Any] = {
        "origin": origin,
        "access_control_request_method": "POST",
        "access_control_request_headers": "authorization",
        "access_control_request_private_network": "true",
    }
    for server, status in (({}, 403), ({"cors_origins": [origin]}, 200)):
        async with running(MODELS, ScriptedBackend(), ScriptedBackend(), server=server) as here:
            assert (await here.client.get("/v1/models", origin=origin)).status == status
            preflight = await here.client.request("OPTIONS", "/v1/models", b"", **asked)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("body", "headers", "user"),
    [
        ({"user": "ann"}, {}, "ann"),
        ({}, {"x_openwebui_user_email": "bob@example.com"}, "bob@example.com"),
        ({"user": "ann"}, {"x_openwebui_user_email": "bob@example.com"}, "ann"),
        ({}, {}, ""),
    ],
)
async def test_end_users(body: dict[str, Any], headers: dict[str, str], user: str) -> None:
    """Whom a chat application asked for is in the record."""
    async with running(MODELS, ScriptedBackend(json_answer(OK)), ScriptedBackend()) as here:
        await call(here, "POST", "/v1/chat/completions", "", {"model": "cheap", **body}, **headers)

    assert here.record.end_user == user


@pytest.mark.parametrize(("status", "is_asked"), [(404, True), (410, False), (413, False), (501, False), (500, True)])
async def test_fallbacks_are_not_chosen_by_clients(status: int, is_asked: bool) -> None:
    """What a target cannot do for this request is no reason to ask the dearer model: only a target that is down is."""
    models = {
        "llama": {"targets": [{"type": "openai", "name": "one"}], "fallbacks": ["paid"]},
        "paid": MODELS["secret"],
    }
    mine = ScriptedBackend(*(json_answer({"error": {"message": "no"}}, status) for _ in range(3)))
    paid = ScriptedBackend(json_answer(OK))
    async with running(models, mine, paid) as here:
        secret = here.add_key(models=("llama",))
        response = await call(here, "POST", "/v1/chat/completions", secret, {"model": "llama", "messages": []})

    assert (response.status, bool(paid.calls)) == ((200, True) if is_asked else (status, False))


GONE = {"message": "The model `x` does not exist.", "code": "model_not_found"}


@pytest.mark.parametrize(
    ("name", "target", "error", "is_asked"),
    [
        ("llama", {}, GONE, True),  # the configuration names it, and the target has it no more
        ("llama*", {}, GONE, False),  # the client names it
        ("llama*", {}, {"message": "model 'llama-x' not found", "type": "api_error"}, False),  # Ollama's
        ("llama*", {"model": "x"}, GONE, True),
        ("llama*", {}, {"message": "endpoint not found"}, True),
        ("llama", {}, {"message": "Invalid URL (POST /v1/rerank)", "code": "unknown_url"}, False),
    ],
)
async def test_a_name_that_a_client_makes_up_chooses_no_fallback(
    name: str, target: dict[str, str], error: dict[str, str], is_asked: bool
) -> None:
    """A 404 about a path or a model that only the client named is its own; other 404s are the target's fault."""
    models = {
        name: {"targets": [{"type": "openai", "name": "one", **target}], "fallbacks": ["paid"]},
        "paid": MODELS["secret"],
    }
    paid = ScriptedBackend(json_answer(OK))
    async with running(models, ScriptedBackend(json_answer({"error": error}, 404)), paid) as here:
        named = name.replace("*", "-x")
        response = await call(here, "POST", "/v1/chat/completions", "", {"model": named, "messages": []})

    assert (response.status, bool(paid.calls)) == ((200, True) if is_asked else (404, False))
