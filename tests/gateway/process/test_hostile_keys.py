"""Keys where they are, where they are not, and where they should not be: one way in, and one way to be refused."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway.hostile_stage import CHAT, TARGET_KEY, Stage, request, stage

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("gateway")) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(module_stage: Stage) -> AsyncIterator[Stage]:
    """As new; and each story leaves a gateway behind that answers."""
    module_stage.reset()
    yield module_stage
    await module_stage.still_answers()


ACCEPTED = {
    "bearer": ["Authorization: Bearer {key}"],
    "small letters": ["authorization: bearer {key}"],
    "spaces": ["Authorization:   Bearer   {key}  "],
    "x-api-key": ["X-Api-Key: {key}"],
    "api-key": ["api-key: {key}"],
    "the same twice": ["Authorization: Bearer {key}", "x-api-key: {key}"],
}
REFUSED = {
    "none": [],
    "empty": ["Authorization: "],
    "scheme only": ["Authorization: Bearer"],
    "empty bearer": ["Authorization: Bearer "],
    "key only": ["Authorization: {key}"],
    "basic": ["Authorization: Basic {key}"],
    "two schemes": ["Authorization: Bearer Bearer {key}"],
    "more after it": ["Authorization: Bearer {key} more"],
    "a beginning": ["Authorization: Bearer {beginning}"],
    "longer": ["Authorization: Bearer {key}x"],
    "capitals": ["Authorization: Bearer {capitals}"],
    "quoted": ['Authorization: Bearer "{key}"'],
    "a comma": ["Authorization: Bearer {key}, Bearer {key}"],
    "one right, one wrong": ["Authorization: Bearer {key}", "x-api-key: lg-wrong"],
    "one wrong, one right": ["Authorization: Bearer lg-wrong", "api-key: {key}"],
    "twice, different": ["Authorization: Bearer {key}", "Authorization: Bearer lg-wrong"],
    "one right, one empty": ["Authorization: Bearer {key}", "x-api-key:"],
    "bearer in x-api-key": ["x-api-key: Bearer {key}"],
    "a hash": ["Authorization: Bearer 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"],
    "the target's": [f"Authorization: Bearer {TARGET_KEY}"],
    "other letters": ["Authorization: Bearer {key}\u00e9"],
    "SQL": ["Authorization: Bearer ' OR '1'='1"],
    "very long": ["Authorization: Bearer " + 30_000 * "x"],
    "cookie": ["Cookie: authorization=Bearer {key}; api-key={key}"],
    "proxy": ["Proxy-Authorization: Bearer {key}"],
    "forwarded": ["X-Forwarded-Authorization: Bearer {key}", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"],
    "underscore": ["x_api_key: {key}"],
    "hop by hop": ["Connection: authorization", "Proxy-Connection: x-api-key"],
}
PATHS = ["/v1/chat/completions", "/v1/models", "/v1/models/model", "/models", "/metrics", "/v1/files", "/v1/nothing"]


def with_headers(path: str, lines: list[str], key: str) -> bytes:
    filled = [line.format(key=key, beginning=key[:20], capitals=key.upper()) for line in lines]
    raw = json.dumps(CHAT).encode() if path.endswith("completions") else b""
    head = [f"{'POST' if raw else 'GET'} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(raw)}", *filled]
    return "\r\n".join([*head, "connection: close", "", ""]).encode() + raw


@pytest.mark.parametrize("lines", ACCEPTED.values(), ids=ACCEPTED)
async def test_key(here: Stage, lines: list[str]) -> None:
    """Wherever clients put it. The target sees its own key and nothing of the client's."""
    assert (await here.call(with_headers("/v1/models", lines, here.key))).statuses == [200]
    here.target.received.clear()
    assert (await here.call(with_headers("/v1/chat/completions", lines, here.key))).statuses == [200]

    (received,) = here.target.received
    assert received.headers["authorization"] == f"Bearer {TARGET_KEY}"
    assert here.key not in repr(received.headers) + received.body.decode()


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
async def test_no_key(here: Stage, lines: list[str]) -> None:
    """On no route that tells anything, and always in the same words."""
    answers = [await here.call(with_headers(path, lines, here.key)) for path in PATHS]

    assert [answer.statuses for answer in answers] == len(PATHS) * [[401]]
    assert all(json.loads(answer.body) == json.loads(answers[0].body) for answer in answers)
    assert answers[0].code == "invalid_api_key"
    assert not here.target.received


@pytest.mark.parametrize(
    "place", ["?api_key={key}", "?key={key}", "?authorization=Bearer%20{key}", "?access_token={key}"]
)
async def test_key_in_the_address(here: Stage, place: str) -> None:
    """Addresses are logged by everybody, so a key there is none."""
    assert (await here.call(request(path="/v1/models" + place.format(key=here.key)))).statuses == [401]


async def test_models_of_others(here: Stage) -> None:
    """A model that a key may not use looks the same as one that does not exist, however it is asked for."""
    for name in ("model", "kept", "shared"):
        refused = await here.call(request({**CHAT, "model": name}, key=here.limited_key))
        unknown = await here.call(request({**CHAT, "model": "nothing"}, key=here.limited_key))
        assert (refused.statuses, refused.code) == ([404], "model_not_found")
        assert refused.body.replace(f"`{name}`".encode(), b"`nothing`") == unknown.body
        assert (await here.call(request(path=f"/v1/models/{name}", key=here.limited_key))).statuses == [404]
    listed = await here.call(request(path="/v1/models", key=here.limited_key))
    assert [model["id"] for model in json.loads(listed.body)["data"]] == ["other"]
    for path in ("/v1/files", "/v1/files?model=other", "/v1/audio/speech?model=model"):
        assert (await here.call(request(path=path, key=here.limited_key))).statuses == [404]

    assert not here.target.received


TWO_NAMES = [
    b'{"model":"other","model":"model","messages":[]}',
    b'{"model":"model","model":"other","messages":[]}',
    b'{"\\u006dodel":"model","model":"other","messages":[]}',
    b'{"model":"other","\\u006dodel":"model","messages":[]}',
]


@pytest.mark.parametrize("body", TWO_NAMES)
async def test_two_names_for_one_model(here: Stage, body: bytes) -> None:
    """What the key was checked for is what the target is asked for, whichever of the two it reads."""
    (status,) = (await here.call(request(body, key=here.limited_key))).statuses

    assert status in (200, 400, 404)
    for received in here.target.received:
        names = json.loads(received.body, object_pairs_hook=lambda pairs: [v for k, v in pairs if k == "model"])
        assert names == ["other"]
