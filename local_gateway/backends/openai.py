"""Anything that speaks OpenAI's API: a request goes there as it is, an answer comes back byte for byte."""

import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from local_gateway.backends.base import Call, Health, configured_headers
from local_gateway.backends.http import HttpClient, HttpUpstream
from local_gateway.config.settings import OpenAITarget
from local_gateway.errors import RouteNotFoundError, TargetError

HEALTH_TIMEOUT = 5.0  # seconds
NO_LIST = (404, 405)  # statuses of a server without a list of models, or without anything at this address
LISTED = (200, 401, 403)  # of one that has it
VERSION = re.compile(r"/v\d+\w*(/|$)")  # in an address that need not be completed
# With which some programs' settings end, but no base URL.
API_PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/messages", "/models")


class OpenAIBackend:
    """Knows an address and a key. Knows nothing of what is asked and answered."""

    def __init__(self, settings: OpenAITarget, http: HttpClient) -> None:
        self._base_url = settings.base_url
        self._http = http
        self._headers = _own_headers(settings)
        self._tls = http.tls_trusting(settings.ca_file)

    async def open(self, call: Call) -> HttpUpstream:
        """Raises TargetError, and RouteNotFoundError for a path that would leave the base URL."""
        content_type = {"content-type": call.content_type} if call.body else {}
        headers = {**_lower(call.headers), **content_type, **self._headers}
        url, on_sent = url_of(self._base_url, call), call.tally.started
        return await self._http.open(call.method, url, headers=headers, body=call.body, on_sent=on_sent, tls=self._tls)

    async def health(self) -> Health:
        """Asks for the list of models, which not every server has: a 404 is an answer too, if the address is right."""
        try:
            status = await self._status_of_models(self._base_url)
            if status in NO_LIST and await self._is_one_level_up():
                return Health(False, "its base_url ends too early: the API is below it, so write /v1 at its end")
        except TargetError as error:
            return Health(False, str(error))
        if status in NO_LIST and (path := _api_path_in(self._base_url)):
            return Health(False, f"its base_url ends too late: write it without {path}")
        return health_of(status)

    async def _is_one_level_up(self) -> bool:
        """Whether the API is not at the base URL but below it: then every request would be a 404."""
        address, mark, query = self._base_url.partition("?")
        if VERSION.search(address.rstrip("/")):
            return False
        return await self._status_of_models(f"{address.rstrip('/')}/v1{mark}{query}") in LISTED

    async def _status_of_models(self, base_url: str) -> int:
        url = url_of(base_url, Call(path="/models"))
        reply = await self._http.fetch("GET", url, headers=self._headers, timeout=HEALTH_TIMEOUT, tls=self._tls)
        return reply.status

    async def aclose(self) -> None:
        """The connections belong to the HttpClient."""


def _api_path_in(base_url: str) -> str:
    """The path of a single request at the end of an address that should end before it; empty if there is none."""
    path = urlsplit(base_url).path.rstrip("/")
    return next((end for end in API_PATHS if path.endswith(end)), "")


def health_of(status: int) -> Health:
    if status in (401, 403):
        return Health(False, f"does not accept our key (status {status})")
    if status < 300:
        return Health(True, "answers")
    if status in NO_LIST:
        return Health(True, "answers, but has no list of models")
    return Health(False, f"answers with status {status}")


def url_of(base_url: str, call: Call) -> str:
    """Where a call goes. A query in the base URL, as Azure has it, stays."""
    parts = unquote(call.path).replace("\\", "/").split("/")
    if ".." in parts or "." in parts or not call.path.startswith("/") or "?" in call.path or "#" in call.path:
        raise RouteNotFoundError("There is no such path.")
    address, _, own_query = base_url.partition("?")
    query = "&".join(filter(None, (own_query, call.query)))
    return address.rstrip("/") + call.path + (f"?{query}" if query else "")


def _own_headers(settings: OpenAITarget) -> dict[str, str]:
    key = settings.api_key.get_secret_value()
    headers = {
        "authorization": f"Bearer {key}" if key else "",
        "openai-organization": settings.organization,
        "openai-project": settings.project,
    }
    return {name: value for name, value in headers.items() if value} | configured_headers(settings)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """So that ours replace them, however they are written."""
    return {name.lower(): value for name, value in headers.items()}
