"""A web server on this machine with small GGUF files: plain, misbehaving, or behind Hugging Face's API."""

import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import NamedTuple

COMMIT = "c0ffee" + 34 * "0"


def make_gguf(num_weights: int = 64, name: str = "weights") -> bytes:
    """The smallest whole GGUF file: no metadata, one float32 tensor."""
    tensor = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, num_weights, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor
    return header + bytes(-len(header) % 32) + bytes(range(4)) * num_weights


class Seen(NamedTuple):
    """A request that reached the server."""

    path: str
    headers: Message


@dataclass
class Served:
    """A file and how the server (mis)behaves with it."""

    body: bytes = field(default_factory=make_gguf)
    etag: str = '"v1"'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    takes_ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # after so many bytes the connection closes; one for each request
    asked: Event = field(default_factory=Event)  # set by a request
    gate: Event | None = None  # the body waits for it
    num_before_gate: int = 0  # bytes of it that do not
    tells_length: bool = True


class ModelServer:
    """Serves `files` by path, without their query, and remembers who asked for what."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, Served] = {}
        self.seen: list[Seen] = []

    def add_repo(self, repo: str, files: dict[str, bytes]) -> None:
        """A repository like Hugging Face's, with one commit, `main`."""
        siblings = [
            {
                "rfilename": name,
                "size": len(body),
                "lfs": {"sha256": sha256(body).hexdigest(), "size": len(body), "pointerSize": 1},
            }
            for name, body in files.items()
        ]
        listing = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self.files[f"/api/models/{repo}/revision/main"] = Served(listing)
        for name, body in files.items():
            self.files[f"/{repo}/resolve/{COMMIT}/{name}"] = Served(body)

    def refuse(self, path: str, status: int, error_code: str = "") -> None:
        self.files[path] = Served(b"", status=status, headers={"X-Error-Code": error_code} if error_code else {})


@contextmanager
def serving() -> Iterator[ModelServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.seen.append(Seen(self.path, self.headers))
            _answer(self, server.files.get(self.path.partition("?")[0], Served(b"", status=404)))

        def log_message(self, *_: object) -> None:
            """Keep the tests quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server = ModelServer(httpd.server_port)
        thread = Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield server
        httpd.shutdown()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, file: Served) -> None:
    file.asked.set()
    start = _start(handler.headers, file)
    if start is not None and start >= len(file.body):
        _send_head(handler, 416, {"Content-Range": f"bytes */{len(file.body)}", "Content-Length": "0"})
        return
    body = file.body[start or 0 :]
    headers = {"ETag": file.etag} | ({"Content-Length": str(len(body))} if file.tells_length else {}) | file.headers
    if start is not None:
        headers["Content-Range"] = f"bytes {start}-{len(file.body) - 1}/{len(file.body)}"
    _send_head(handler, file.status if start is None else 206, headers)
    body = body[: file.breaks.pop(0)] if file.breaks else body
    if file.gate:
        handler.wfile.write(body[: file.num_before_gate])
        body = body[file.num_before_gate :]
        file.gate.wait(timeout=30)
    handler.wfile.write(body)


def _start(headers: Message, file: Served) -> int | None:
    """Where the answer begins, if it is to be a partial one."""
    wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
    same = headers.get("If-Range", file.etag) == file.etag
    return int(wanted[1]) if wanted and same and file.takes_ranges else None


def _send_head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
