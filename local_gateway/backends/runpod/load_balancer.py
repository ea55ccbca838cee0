"""A load-balancing endpoint of RunPod: plain HTTP to a worker, and turns of a conversation to the same one.

Its balancer has no queue and repeats nothing. While no worker runs it holds a request for two minutes, then gives up.
Its own errors are told apart from a worker's, which are OpenAI's: {"error": {...}}.
"""

from dataclasses import replace

import orjson

from local_gateway.backends.base import Call, Health, configured_headers
from local_gateway.backends.http import HttpClient, HttpUpstream
from local_gateway.backends.openai import HEALTH_TIMEOUT, OpenAIBackend
from local_gateway.backends.runpod.affinity import Affinity
from local_gateway.config.settings import OpenAITarget, RunpodLbTarget
from local_gateway.errors import (
    TargetConfigError,
    TargetError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
)

WORKER_ID = "x-runpod-worker-id"  # sent: the worker that is wanted; received: the one that answered
MAX_PROBLEM_BYTES = 4096  # the balancer's own errors are short
RETRY_AFTER = 5.0  # seconds; RunPod advises 5 to 10
NO_WORKER = {"message": "The RunPod endpoint has no worker for this request now.", "code": "no_workers"}


class RunpodLbBackend:
    """One endpoint, and which worker answered which conversation. Knows nothing of what is asked and answered."""

    def __init__(self, settings: RunpodLbTarget, http: HttpClient, affinity: Affinity | None = None) -> None:
        base_url = settings.base_url or f"https://{settings.endpoint_id}.api.runpod.ai/v1"
        plain = OpenAITarget(type="openai", base_url=base_url, api_key=settings.api_key, headers=settings.headers)
        self._plain = OpenAIBackend(plain, http)
        self._http = http
        self._ping_url = base_url.rstrip("/").removesuffix("/v1") + "/ping"
        key = settings.api_key.get_secret_value()
        self._headers = {"authorization": f"Bearer {key}", **configured_headers(settings)}
        self._affinity = affinity or Affinity()

    async def open(self, call: Call) -> HttpUpstream:
        """Raises TargetError if there is no answer, or one that no worker gave."""
        if worker_id := self._affinity.worker_of(call.conversation):
            call = replace(call, headers={**call.headers, WORKER_ID: worker_id})
        upstream = await self._plain.open(call)
        if upstream.status >= 400:
            await _raise_problem(upstream)
        self._affinity.remember(call.conversation, upstream.header(WORKER_ID))
        return upstream

    async def health(self) -> Health:
        """Asks a worker's /ping. Where none runs this makes RunPod start one."""
        try:
            reply = await self._http.fetch("GET", self._ping_url, headers=self._headers, timeout=HEALTH_TIMEOUT)
        except TargetTimeoutError:
            return Health(True, "no worker answers yet", num_ready_workers=0)
        except TargetError as error:
            return Health(False, str(error))
        return _health_of(reply.status, reply.body)

    async def aclose(self) -> None:
        """The connections belong to the HttpClient."""


def _health_of(status: int, body: bytes) -> Health:
    match status:
        case 200:
            return Health(True, "a worker answers", num_ready_workers=1)
        case 204:
            return Health(True, "a worker is starting", num_ready_workers=0, num_starting_workers=1)
        case 401 | 403:
            return Health(False, f"does not accept our key (status {status})")
    problem = _problem_of(status, body)
    if isinstance(problem, TargetRefusedError):
        return Health(True, "no worker runs", num_ready_workers=0)
    return Health(False, str(problem or f"answers with status {status}"))


async def _raise_problem(upstream: HttpUpstream) -> None:
    """Raises TargetError if the balancer answered, not a worker. The body can be read again afterwards."""
    try:
        if problem := _problem_of(upstream.status, await upstream.read(MAX_PROBLEM_BYTES)):
            raise problem
    except BaseException:
        await upstream.aclose()
        raise


def _problem_of(status: int, content: bytes) -> TargetError | None:
    """What the balancer says. {"error": "no workers available"}, or {"status", "title", "detail"}, or nothing known."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = {}
    if not isinstance(body, dict) or isinstance(body.get("error"), dict):
        return None
    text = f"{body.get('error')} {body.get('detail')}".lower()
    if "not allowed for qb api" in text:
        return TargetConfigError("The RunPod endpoint is a queue endpoint: its type in the configuration is wrong.")
    if "no workers available" in text or "waiting for worker" in text:
        return TargetRefusedError(503, NO_WORKER, retry_after=RETRY_AFTER)
    return None if _is_of_worker(body) else _gateway_problem(status)


def _is_of_worker(body: dict[str, object]) -> bool:
    """Whether a server wrote an error, and not the balancer: in vLLM's, TGI's or FastAPI's form."""
    is_plain = "error_type" in body or body.get("object") == "error" or isinstance(body.get("message"), str)
    return is_plain or ("detail" in body and "title" not in body)


def _gateway_problem(status: int) -> TargetError | None:
    match status:
        case 502:
            return TargetUnreachableError("RunPod's balancer lost its worker.")
        case 503:
            return TargetRefusedError(503, NO_WORKER, retry_after=RETRY_AFTER)
        case 504 | 524:
            return TargetTimeoutError("RunPod's balancer waited too long for its worker.")
    return None
