"""RunPod's REST API v2, as far as it tells of an endpoint's workers. Its shapes are its OpenAPI description's [DOC]."""

import json
from typing import Any

from aiohttp import web

from .calls import Calls
from .endpoint import Endpoint
from .job import Json
from .worker import State, Worker

STATUSES = ("RUNNING", "IDLE", "INITIALIZING", "THROTTLED", "UNHEALTHY")


class RestApi(Calls):
    """On the platform it has a host of its own, api.runpod.io."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v2/serverless/{endpoint}/workers", self.workers, name="workers")]

    def authorise(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.settings.client_key}":
            raise web.HTTPUnauthorized(text=problem(401, "Unauthorized"), content_type="application/problem+json")

    async def workers(self, request: web.Request) -> web.StreamResponse:
        """Both kinds of endpoints have the call. Scaled-down workers are not in its answer."""
        self.authorise(request)
        endpoint = self.endpoints.get(request.match_info["endpoint"])
        if endpoint is None:
            raise web.HTTPNotFound(text=problem(404, "Not Found"), content_type="application/problem+json")
        found = endpoint

        async def answer(_request: web.Request) -> web.StreamResponse:
            found.log.note("workers_listed")
            return web.json_response(listing(found))

        return await self.faults.apply("workers", request, answer)


def listing(endpoint: Endpoint) -> Json:
    active = endpoint.fleet.of_state(State.STARTING, State.READY, State.STOPPING)
    workers = [view(endpoint, worker) for worker in active]
    summary = {status.lower(): sum(worker["status"] == status for worker in workers) for status in STATUSES}
    return {"workers": workers, "summary": {**summary, "total": len(workers)}, "endpointVersion": 1}


def view(endpoint: Endpoint, worker: Worker) -> dict[str, Any]:
    """Start and uptime, in whole seconds as in the example, are null until the worker is placed and runs [DOC]."""
    started = endpoint.fleet.bill.started(worker.id)
    return {
        "id": worker.id,
        "status": status_of(endpoint, worker),
        "isStale": False,
        "version": 1,
        "gpuCount": 1,
        "image": None,
        "uptimeSeconds": None if started is None else int(endpoint.now - started),
        "gpuTypeId": None if started is None else "EMU",
        "dataCenterId": None if started is None else "EMU-1",
        "startedAt": None if started is None else f"{endpoint.log.clock.date(started):%Y-%m-%dT%H:%M:%SZ}",
    }


def status_of(endpoint: Endpoint, worker: Worker) -> str:
    if worker.unhealthy:
        return "UNHEALTHY"
    if worker.state is State.STARTING:
        return "INITIALIZING"
    return "RUNNING" if endpoint.num_busy(worker) else "IDLE"


def problem(status: int, title: str) -> str:
    return json.dumps({"title": title, "status": status, "detail": title.lower()})
