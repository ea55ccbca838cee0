"""Load-balancing endpoints: plain HTTP through to a worker that says it is healthy. No queue, no retry [DOC].

Reached as http://HOST/lb/ENDPOINT/PATH here, instead of https://ENDPOINT.api.runpod.ai/PATH.
"""

import asyncio
import json

import aiohttp
from aiohttp import web

from .calls import Calls
from .endpoint import Endpoint
from .faults import Faults
from .settings import Settings
from .worker import State, Worker

AFFINITY = "X-Runpod-Worker-Id"
RESPONSE = web.RequestKey("response", web.StreamResponse)  # once it has begun
HOP_HEADERS = ("host", "connection", "transfer-encoding", "content-length", "content-encoding", AFFINITY.lower())


class LoadBalancer(Calls):
    def __init__(
        self, endpoints: dict[str, Endpoint], settings: Settings, faults: Faults, session: aiohttp.ClientSession
    ) -> None:
        super().__init__(endpoints, settings, faults)
        self._session = session

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/lb/{endpoint}/{path:.*}", self.forward, name="forward")]

    def authorise(self, request: web.Request) -> None:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") != self.settings.client_key:
            raise web.HTTPUnauthorized

    async def forward(self, request: web.Request) -> web.StreamResponse:
        self.authorise(request)
        endpoint = self.endpoints.get(request.match_info["endpoint"])
        if endpoint is None:
            return _problem(404, "there is no such endpoint")
        if endpoint.own.kind != "load_balancing":
            return web.json_response({"error": "not allowed for QB API"}, status=400)  # as RunPod says it [DOC]
        return await self.faults.apply("forward", request, lambda request: self._forward(request, endpoint))

    async def _forward(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        endpoint.num_balanced += 1
        try:
            worker = await self._choose(endpoint, request.headers.get(AFFINITY, ""))
            async with asyncio.timeout(endpoint.log.clock.real(self.settings.request_timeout)):
                return await self._pass_on(request, endpoint, worker)
        except (TimeoutError, aiohttp.ClientError) as error:
            if RESPONSE in request and request.transport is not None:  # too late for a status
                request.transport.abort()
            return request.get(RESPONSE) or _problem(502, type(error).__name__)
        finally:
            endpoint.num_balanced -= 1

    async def _choose(self, endpoint: Endpoint, affinity: str) -> Worker:
        """The one the client wants, as strictly as it says [DOC]; else the one with the fewest requests."""
        manner, _, worker_id = affinity.rpartition(" ")
        wanted = endpoint.fleet.workers.get(worker_id)
        if manner in ("strict", "strict-resume"):
            return await self._strictly(endpoint, wanted, resumes=manner == "strict-resume")
        if wanted is not None and _is_healthy(wanted):
            return wanted
        workers = await endpoint.log.until(lambda: _healthy(endpoint), self.settings.no_worker_timeout)
        if not workers:
            raise _problem_error("timed out waiting for worker")
        return min(workers, key=lambda worker: worker.num_requests)

    async def _strictly(self, endpoint: Endpoint, wanted: Worker | None, *, resumes: bool) -> Worker:
        if wanted is not None and wanted.state is State.FROZEN and resumes:
            endpoint.fleet.thaw(wanted)
        if wanted is None or wanted.state in (State.GONE, State.STOPPING, State.FROZEN):
            raise _problem_error("affinity_worker_gone", 404)
        if not await endpoint.log.until(lambda: _is_healthy(wanted), self.settings.strict_affinity_timeout):
            raise _problem_error("worker_timeout")
        return wanted

    async def _pass_on(self, request: web.Request, endpoint: Endpoint, worker: Worker) -> web.StreamResponse:
        body = await request.read()
        if len(body) > self.settings.max_balanced_bytes:
            return _problem(413, "the request is too large")
        url = f"http://127.0.0.1:{worker.port}/{request.match_info['path']}"
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_HEADERS}
        worker.num_requests += 1
        endpoint.log.note("forwarded", worker_id=worker.id, detail=request.match_info["path"])
        try:
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                return await self._pass_back(request, worker, answer)
        finally:
            worker.num_requests -= 1
            endpoint.log.note("answered", worker_id=worker.id)

    async def _pass_back(
        self, request: web.Request, worker: Worker, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS}
        response = web.StreamResponse(status=answer.status, headers={**headers, AFFINITY: worker.id})
        await response.prepare(request)
        request[RESPONSE] = response
        num_bytes = 0
        async for part in answer.content.iter_any():
            num_bytes += len(part)
            if num_bytes > self.settings.max_balanced_bytes:
                raise aiohttp.ClientPayloadError("the response is too large")
            await response.write(part)
        return response

    async def watch(self, endpoint: Endpoint) -> None:
        """Ask every worker how it is: 200 is healthy, 204 is starting, anything else is not [DOC]."""
        while True:
            for worker in endpoint.fleet.of_state(State.STARTING, State.READY):
                if worker.process is not None:
                    await self._check(endpoint, worker)
            await endpoint.log.clock.sleep(self.settings.health_interval)

    async def _check(self, endpoint: Endpoint, worker: Worker) -> None:
        status = 0
        try:
            url = f"http://127.0.0.1:{worker.port}{endpoint.own.health_path}"
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            if worker.state is State.STARTING:
                return  # does not listen yet
        endpoint.fleet.seen(worker.id)
        if status == 200:
            endpoint.fleet.ready(worker)
        elif status != 204 and worker.state is not State.GONE:
            endpoint.fleet.unhealthy(worker, f"health check says {status}")
            endpoint.fleet.stop(worker)


def _is_healthy(worker: Worker) -> bool:
    return worker.state is State.READY


def _healthy(endpoint: Endpoint) -> list[Worker]:
    return endpoint.fleet.of_state(State.READY)


def _body(status: int, detail: str) -> dict[str, object]:
    return {"status": status, "title": "Bad Request" if status == 400 else "Error", "detail": detail}


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response(_body(status, detail), status=status)


def _problem_error(detail: str, status: int = 400) -> web.HTTPException:
    kind = web.HTTPNotFound if status == 404 else web.HTTPBadRequest
    return kind(text=json.dumps(_body(status, detail)), content_type="application/json")
