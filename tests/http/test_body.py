"""Bodies: compressed ones are decoded with a limit, and keys may come in the headers that other APIs use."""

import gzip
import json
import zlib

import pytest

from tests.fake_worker import fake_worker
from tests.http.test_edge import CHAT, HI, client_of, edge_of

PLAIN = json.dumps(HI).encode()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PLAIN)),
        ("GZIP", gzip.compress(PLAIN)),
        ("deflate", zlib.compress(PLAIN)),
        ("identity", PLAIN),
        ("", PLAIN),
    ],
)
async def test_encodings(encoding: str, body: bytes) -> None:
    """What clients compress is read as if they had not."""
    with fake_worker() as worker:
        async with client_of(edge_of(worker)) as client:
            response = await client.post(CHAT, content=body, headers={"content-encoding": encoding})

    assert response.json()["choices"][0]["message"]["content"] == "Hello!"


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        ("gzip", gzip.compress(b" " * 50_000_000), 413, "The request body is larger than 4000000 bytes."),
        ("gzip", gzip.compress(PLAIN)[:-9], 400, "The request body is not valid gzip: it is cut off."),
        ("gzip", PLAIN, 400, "The request body is not valid gzip: Error -3"),
        ("deflate", gzip.compress(PLAIN), 400, "The request body is not valid deflate: Error -3"),
        ("zstd", PLAIN, 415, "The request body is encoded as 'zstd': send it plain, or as gzip or deflate."),
        ("gzip, gzip", PLAIN, 415, "The request body is encoded as 'gzip, gzip'"),
    ],
    ids=["bomb", "cut", "none", "another", "unknown", "twice"],
)
async def test_encodings_that_are_refused(encoding: str, body: bytes, status: int, message: str) -> None:
    """Said in one line, and a bomb is unpacked to the limit only."""
    with fake_worker() as worker:
        async with client_of(edge_of(worker)) as client:
            response = await client.post(CHAT, content=body, headers={"content-encoding": encoding})

    assert response.status_code == status
    assert response.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400 + ".0"])
async def test_numbers_that_are_none(number: str) -> None:
    """JSON can write numbers that no field can hold; they are not taken for infinity."""
    with fake_worker() as worker:
        async with client_of(edge_of(worker)) as client:
            response = await client.post(CHAT, content=f'{{"metadata": {number}}}'.encode())

    assert response.status_code == 400
    assert "is too large a number" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "secret"}, 200),
        ({"api-key": "secret"}, 200),
        ({"api-key": "secret", "authorization": "Bearer other"}, 200),
        ({"api-key": "other"}, 401),
        ({"x-api-key": ""}, 401),
        ({"key": "secret"}, 401),
    ],
)
async def test_keys_in_other_headers(headers: dict[str, str], status: int) -> None:
    """Anthropic's and Azure's clients send them there."""
    with fake_worker() as worker:
        async with client_of(edge_of(worker, api_key="secret")) as client:
            response = await client.post(CHAT, json=HI, headers=headers)

    assert response.status_code == status
