"""The worker's side of the wire, as the SDK speaks it."""

import json
from typing import Any

from aiohttp import web

from .calls import Calls, call
from .endpoint import Endpoint
from .job import Job


class WorkerApi(Calls):
    """Authorization is the raw key, without "Bearer" [SRC]."""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v2/{endpoint}/job-take/{worker}", self.take, name="job-take"),
            web.get("/v2/{endpoint}/job-take-batch/{worker}", self.take_batch, name="job-take-batch"),
            web.get("/v2/{endpoint}/job-stop/{worker}", self.stop, name="job-stop"),
            web.get("/v2/{endpoint}/ping/{worker}", self.ping, name="ping"),
            web.post("/v2/{endpoint}/job-done/{worker}/{job}", self.done, name="job-done"),
            web.post("/v2/{endpoint}/job-stream/{worker}/{job}", self.stream, name="job-stream"),
        ]

    def authorise(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != self.settings.worker_key:
            raise web.HTTPUnauthorized

    @call
    async def take(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """One job as an object."""
        jobs = await endpoint.take(request.match_info["worker"], 1)
        return await self._hand_out(request, endpoint, jobs, jobs[0].wire() if jobs else None)

    @call
    async def take_batch(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Those that are there, up to `batch_size`: no worker waits for a batch to fill."""
        jobs = await endpoint.take(request.match_info["worker"], int(request.query["batch_size"]))
        return await self._hand_out(request, endpoint, jobs, [job.wire() for job in jobs])

    async def _hand_out(
        self, request: web.Request, endpoint: Endpoint, jobs: list[Job], body: object
    ) -> web.StreamResponse:
        """A worker that hung up meanwhile has not got them."""
        if not jobs:
            return web.Response(status=204)
        response = web.json_response(body)
        try:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
            await response.prepare(request)
            await response.write_eof()
        except BaseException:
            endpoint.queue.undo_take(jobs)
            raise
        return response

    @call
    async def stop(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        job_ids = await endpoint.stops(request.match_info["worker"])
        return web.json_response({"jobsToStop": job_ids}) if job_ids else web.Response(status=204)

    @call
    async def ping(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        query, worker_id = request.query, request.match_info["worker"]
        if query.get("status") == "unhealthy":
            reason = f"{query.get('check')}: {query.get('reason')}"
            endpoint.fleet.unhealthy(endpoint.fleet.seen(worker_id), reason)
        else:
            endpoint.ping(worker_id, query.get("job_id", "").split(","))
        return web.Response()

    @call
    async def done(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        raw = await request.read()
        job_id, worker_id = request.match_info["job"], request.match_info["worker"]
        is_sync = (job := endpoint.queue.jobs.get(job_id)) is not None and job.is_sync
        if len(raw) > (self.settings.max_runsync_bytes if is_sync else self.settings.max_run_bytes):
            endpoint.log.note("refused", job_id=job_id, worker_id=worker_id, detail=f"a result of {len(raw)} bytes")
            raise web.HTTPBadRequest(text="the result is too large")
        body = _json(raw)
        endpoint.queue.done(job_id, worker_id, body, endpoint.now)
        if body.get("stopPod"):  # the SDK's refresh_worker
            endpoint.fleet.stop(endpoint.fleet.seen(worker_id))
        return web.Response()

    @call
    async def stream(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        raw = await request.read()
        job_id, worker_id = request.match_info["job"], request.match_info["worker"]
        output = _json(raw).get("output")
        if len(raw) <= self.settings.max_chunk_bytes:
            parts = [output]
        elif self.settings.split_large_chunks and isinstance(output, str):
            size = self.settings.max_chunk_bytes // 4
            parts = [output[start : start + size] for start in range(0, len(output), size)]
        else:
            endpoint.log.note("refused", job_id=job_id, worker_id=worker_id, detail=f"a chunk of {len(raw)} bytes")
            raise web.HTTPBadRequest(text="the chunk is too large")
        for part in parts:
            endpoint.queue.stream(job_id, worker_id, part)
        return web.Response()


def _json(raw: bytes) -> dict[str, Any]:
    """The SDK sends JSON as application/x-www-form-urlencoded [SRC]."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="not a JSON object")
    return body
