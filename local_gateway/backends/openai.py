"""Anything that speaks OpenAI's API: a request goes there as it is, an answer comes back byte for byte."""

from collections.abc import Mapping
from urllib.parse import unquote

from local_gateway.backends.base import Call, Health, configured_headers
from local_gateway.backends.http import HttpClient, HttpUpstream
from local_gateway.config.settings import OpenAITarget
from local_gateway.errors import RouteNotFoundError, TargetError

HEALTH_TIMEOUT = 5.0  # seconds


class OpenAIBackend:
    """Knows an address and a key. Knows nothing of what is asked and answered."""

    def __init__(self, settings: OpenAITarget, http: HttpClient) -> None:
        self._base_url = settings.base_url
        self._http = http
        self._headers = _own_headers(settings)

    async def open(self, call: Call) -> HttpUpstream:
        """Raises TargetError, and RouteNotFoundError for a path that would leave the base URL."""
        content_type = {"content-type": call.content_type} if call.body else {}
        headers = {**_lower(call.headers), **content_type, **self._headers}
        url, on_sent = url_of(self._base_url, call), call.tally.started
        return await self._http.open(call.method, url, headers=headers, body=call.body, on_sent=on_sent)

    async def health(self) -> Health:
        """Asks for the list of models, which not every server has: a 404 is an answer too."""
        try:
            url = url_of(self._base_url, Call(path="/models"))
            reply = await self._http.fetch("GET", url, headers=self._headers, timeout=HEALTH_TIMEOUT)
        except TargetError as error:
            return Health(False, str(error))
        return health_of(reply.status)

    async def aclose(self) -> None:
        """The connections belong to the HttpClient."""


def health_of(status: int) -> Health:
    if status in (401, 403):
        return Health(False, f"does not accept our key (status {status})")
    if status < 300:
        return Health(True, "answers")
    if status in (404, 405):
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
