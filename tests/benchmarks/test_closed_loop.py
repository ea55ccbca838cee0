"""The load generator against a server that answers by a script."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.client import CHAT, Client, ask
from benchmarks.people import closed_loop

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def chunk(**parts: Any) -> bytes:
    data = b"data: " + json.dumps(parts).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


TEXT = chunk(choices=[{"delta": {"content": "Hello"}}])
ANSWER = HEAD + TEXT + chunk(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2}) + b"0\r\n\r\n"


class ScriptedServer:
    """Answers each request with the next reply, the last one again and again; then may close the connection."""

    def __init__(self, *replies: bytes, closes: bool = False) -> None:
        self.requests: list[dict[str, Any]] = []
        self.num_connections = 0
        self.tasks: list[asyncio.Task[Any] | None] = []
        self._replies = list(replies)
        self._closes = closes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self.tasks.append(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                self.requests.append(json.loads(await reader.readexactly(length)))
                writer.write(self._replies[0] if len(self._replies) == 1 else self._replies.pop(0))
                if self._closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        await asyncio.gather(*filter(None, server.tasks))  # its clients have closed their connections


async def test_a_client_keeps_its_connection() -> None:
    server = ScriptedServer(ANSWER)
    async with serving(server) as url:
        client = Client(url)
        answers = [await client.ask(CHAT, BODY) for _ in range(3)]
        client.close()

    assert [answer.text for answer in answers] == ["Hello"] * 3
    assert server.num_connections == 1


async def test_a_connection_that_the_server_closed_is_made_anew() -> None:
    server = ScriptedServer(ANSWER, closes=True)
    async with serving(server) as url:
        client = Client(url)
        answers = [await client.ask(CHAT, BODY) for _ in range(3)]
        client.close()

    assert [answer.error for answer in answers] == [""] * 3
    assert server.num_connections == 3


async def test_a_refusal_is_an_error_with_the_servers_words() -> None:
    async with serving(ScriptedServer(b"HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\ntry later")) as url:
        answer = await ask(url, CHAT, BODY)

    assert "503" in answer.error
    assert "try later" in answer.error


async def test_an_answer_that_ends_in_its_midst_is_an_error() -> None:
    """Its text is kept, and it is not asked for again."""
    server = ScriptedServer(HEAD + TEXT, closes=True)
    async with serving(server) as url:
        answer = await ask(url, CHAT, BODY)

    assert "ConnectionError" in answer.error
    assert (answer.text, len(server.requests)) == ("Hello", 1)


async def test_what_is_no_http_is_an_error() -> None:
    async with serving(ScriptedServer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as url:
        answer = await ask(url, CHAT, BODY)

    assert "no HTTP/1.1 response" in answer.error


async def test_people_ask_over_the_chat_route_and_anew() -> None:
    server = ScriptedServer(ANSWER)
    async with serving(server) as url:
        answers = await closed_loop(url, 2, 0.05, seed=1, more={"model": "m", "temperature": None})

    assert len(answers) == len(server.requests) > 2
    assert not any(answer.error or answer.is_cut for answer in answers)
    assert all(asked["model"] == "m" and "temperature" not in asked for asked in server.requests)
    assert server.num_connections == 2


async def test_every_server_gets_the_same_questions() -> None:
    async def first_questions() -> list[str]:
        server = ScriptedServer(ANSWER)
        async with serving(server) as url:
            await closed_loop(url, 1, 0.02, seed=7)
        return [asked["messages"][0]["content"] for asked in server.requests]

    first, second = await first_questions(), await first_questions()

    shorter = min(len(first), len(second))
    assert first[:shorter] == second[:shorter]
    assert len(set(first)) == len(first)


async def test_an_answer_that_does_not_end_is_cut() -> None:
    """With what it had by then."""
    async with serving(ScriptedServer(HEAD + TEXT)) as url:
        (answer,) = await closed_loop(url, 1, 0.02, seed=1, patience=0.02)

    assert (answer.is_cut, answer.error, len(answer.arrivals)) == (True, "", 1)
    assert answer.ended > answer.started
