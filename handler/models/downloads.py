"""Download files over HTTPS, resuming where an earlier attempt stopped.

Knows nothing about models, repositories or settings. Never shows the query of a URL: it may be a signature.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from handler.errors import ModelError, NetworkError
from handler.models.arrival import Arrival
from handler.models.storage import Digest, discard, etag_of, num_bytes_of, part_of, require_space, store
from handler.progress import Progress

CONNECT_TIMEOUT = 3.5  # seconds for each address of the host; short, because `demo` has a second source
READ_TIMEOUT = 30.0  # seconds without a byte
CHUNK_BYTES = 1 << 20

# Busy servers are asked again after 0, 2 and 4 seconds. A broken connection is `_fill`'s to resume.
_RETRY = Retry(
    total=3,
    connect=0,
    read=0,
    backoff_factor=1,
    status_forcelist=(429, 500, 502, 503, 504),
    respect_retry_after_header=False,
    raise_on_status=False,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Download:
    """A file to fetch and where to put it. Size and checksum where known; a token goes to the URL's own host only.

    An `arrival` is told what has arrived. The checks come after that: nothing may be made of it before.
    """

    url: str = field(repr=False)
    target: Path
    num_bytes: int | None = None
    sha256: str | None = None
    token: SecretStr | None = None
    arrival: Arrival | None = None


def download(files: Sequence[Download]) -> None:
    """Fetch those that are not there yet. Too little space for all of them is found before the first byte."""
    missing = [file for file in files if not file.target.exists()]
    if missing:
        require_space(missing[0].target.parent, sum(_num_bytes_to_come(file) for file in missing))
    for file in missing:
        require_https(file.url)
        store(file.target, file.sha256, partial(_fill, file))


def require_https(url: str) -> None:
    """Plain http is for servers on this machine: from elsewhere the bytes may be an attacker's."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ModelError(f"{without_query(url)} is not https, and models are fetched over https only.")


def without_query(url: str) -> str:
    """The URL as it may be shown: a query may hold a signature, and the part before the host a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _num_bytes_to_come(file: Download) -> int:
    return max(0, (file.num_bytes or 0) - num_bytes_of(part_of(file.target)))


def _fill(file: Download, part: Path) -> Digest | None:
    """Download into `part`; resume for as long as every attempt gets further than the one before."""
    digest = Digest() if file.sha256 else None
    log.info("downloading %s from %s", file.target.name, without_query(file.url))
    while True:
        num_before = num_bytes_of(part)
        try:
            _attempt(file, part, digest)
            return digest
        except requests.RequestException as error:
            if num_bytes_of(part) <= num_before:
                raise NetworkError(f"{without_query(file.url)} cannot be downloaded: {_reason(error)}.") from None
            log.warning("%s broke off (%s); resuming", file.target.name, _reason(error))


def _attempt(file: Download, part: Path, digest: Digest | None) -> None:
    """One request: go on where `part` ends if the server still has that version of the file, else start over."""
    etag = etag_of(part).read_text() if etag_of(part).exists() else ""
    num_have = num_bytes_of(part) if etag else 0
    with _session() as session, _get(session, file, num_have, etag) as response:
        start, num_total = _range(response)
        match response.status_code:
            case HTTPStatus.PARTIAL_CONTENT if start == num_have:
                _save(response, _Writer(file, part, digest), start, num_total)
            case HTTPStatus.OK:
                discard(part)
                _save(response, _Writer(file, part, digest), 0, num_total)
            case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if num_total == num_have:
                pass  # all had arrived when the process was stopped, before the checks
            case HTTPStatus.PARTIAL_CONTENT | HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if num_have:
                discard(part)
                _attempt(file, part, digest)
            case _:
                raise NetworkError(f"{without_query(file.url)} cannot be downloaded: {_refusal(response, file)}.")


def _session() -> requests.Session:
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=_RETRY))
    session.mount("http://", HTTPAdapter(max_retries=_RETRY))
    return session


def _get(session: requests.Session, file: Download, num_have: int, etag: str) -> requests.Response:
    headers = {"Accept-Encoding": "identity"}
    if num_have:
        headers |= {"Range": f"bytes={num_have}-", "If-Range": etag}
    response = session.get(
        file.url,
        headers=headers,
        # As `auth`, because a .netrc would replace a header. Requests drops it when a redirect leaves the host.
        auth=_Bearer(file.token) if file.token else None,
        timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
        stream=True,
    )
    for hop in (*response.history, response):
        require_https(hop.url)
    return response


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return request


def _range(response: requests.Response) -> tuple[int, int | None]:
    """Where the body starts in the file, and how long the file is, if the server says so."""
    content_range = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if content_range:
        start, total = content_range.groups()
        return int(start or 0), None if total == "*" else int(total)
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


class _Writer(NamedTuple):
    """The partial file, and what follows its growth."""

    file: Download
    part: Path
    digest: Digest | None

    def append(self, chunks: Iterable[bytes], num_have: int, num_total: int | None) -> None:
        if self.digest:
            self.digest.begin(self.part, num_have)
        if self.file.arrival:
            self.file.arrival.begin(self.part, num_total, num_have)
        with self.part.open("ab", buffering=0) as file, Progress(self.part.stem, num_total, num_have) as progress:
            for chunk in chunks:
                num_have += _write_all(file, chunk)
                if self.file.arrival:
                    self.file.arrival.reach(num_have)
                if self.digest:
                    self.digest.update(chunk)
                progress.reach(num_have)


def _write_all(file: FileIO, data: bytes) -> int:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    return len(data)


def _save(response: requests.Response, writer: _Writer, num_have: int, num_total: int | None) -> None:
    """Append the body to the partial file, after a note which version of the file it belongs to."""
    if num_total is not None:
        require_space(writer.part.parent, num_total - num_have)
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
        etag_of(writer.part).write_text(etag)
    writer.part.touch()
    writer.append(response.iter_content(CHUNK_BYTES), num_have, num_total)


def _refusal(response: requests.Response, file: Download) -> str:
    refusal = f"the server answers {response.status_code} {response.reason}"
    if file.token is not None and response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        sent = "with" if file.token else "without"
        return f"{refusal} to a request {sent} HF_TOKEN; a gated repository's terms must be accepted on its page"
    return refusal


def _reason(error: requests.RequestException) -> str:
    """The deepest cause: the outer ones quote the whole URL."""
    cause: BaseException = error
    while cause.__context__:
        cause = cause.__context__
    return type(cause).__name__ if isinstance(cause, requests.RequestException) else str(cause)
