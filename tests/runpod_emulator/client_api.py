"""The client's side: jobs in, answers out."""

import json
from typing import Any, NoReturn

from aiohttp import web

from .calls import Calls, call
from .endpoint import Endpoint
from .job import Job, Json, Policy
from .limits import queue_is_full


class ClientApi(Calls):
    """Authorization is "Bearer KEY"; the bare key does too [DOC]."""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v2/{endpoint}/run", self.run, name="run"),
            web.post("/v2/{endpoint}/runsync", self.runsync, name="runsync"),
            web.post("/v2/{endpoint}/cancel/{job}", self.cancel, name="cancel"),
            web.post("/v2/{endpoint}/retry/{job}", self.retry, name="retry"),
            web.post("/v2/{endpoint}/purge-queue", self.purge, name="purge-queue"),
            web.get("/v2/{endpoint}/health", self.health, name="health"),
            web.get("/v2/{endpoint}/requests", self.requests, name="requests"),
            # RunPod's own clients GET these or POST them [SRC].
            web.route("*", "/v2/{endpoint}/status/{job}", self.status, name="status"),
            web.route("*", "/v2/{endpoint}/status-sync/{job}", self.status_sync, name="status-sync"),
            web.route("*", "/v2/{endpoint}/stream/{job}", self.stream, name="stream"),
        ]

    def authorise(self, request: web.Request) -> None:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") != self.settings.client_key:
            raise web.HTTPUnauthorized

    @call
    async def run(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        body = await read_json(request, self.settings.max_run_bytes)
        job = self.submit(endpoint, body, is_sync=False)
        return web.json_response({"id": job.id, "status": job.status})

    @call
    async def runsync(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Not finished in time, it is answered as it stands, and can be polled [DOC]."""
        body = await read_json(request, self.settings.max_runsync_bytes)
        job = self.submit(endpoint, body, is_sync=True)
        try:
            await endpoint.until_over(job, self._wait(request, self.settings.runsync_hold))
        except BaseException:  # the client hung up
            if self.settings.cancel_on_disconnect:
                endpoint.queue.cancel(job, endpoint.now)
            raise
        return web.json_response(job.view(endpoint.now))

    @call
    async def status(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        return web.json_response(self._job(request, endpoint).view(endpoint.now))

    @call
    async def status_sync(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        job = self._job(request, endpoint)
        await endpoint.until_over(job, self._wait(request, self.settings.stream_hold))
        return web.json_response(job.view(endpoint.now))

    @call
    async def stream(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Polling, not server-sent events: what came since the last call, at once if there is any."""
        job = self._job(request, endpoint)
        await endpoint.until_news(job, self._wait(request, self.settings.stream_hold))
        return web.json_response({"status": job.status, "stream": job.drain()})

    @call
    async def cancel(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        job = self._job(request, endpoint)
        endpoint.queue.cancel(job, endpoint.now)
        return web.json_response({"id": job.id, "status": job.status})

    @call
    async def retry(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        job = self._job(request, endpoint)
        if not endpoint.queue.retry(job):
            refuse(f"a job that is {job.status} cannot be retried")
        return web.json_response({"id": job.id, "status": job.status})

    @call
    async def purge(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        return web.json_response({"removed": endpoint.queue.purge(endpoint.now), "status": "completed"})

    @call
    async def health(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        return web.json_response(endpoint.health())

    @call
    async def requests(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Its shape is [UNK]."""
        return web.json_response({"requests": [job.view(endpoint.now) for job in endpoint.queue.jobs.values()]})

    def submit(self, endpoint: Endpoint, body: Json, *, is_sync: bool) -> Job:
        if "input" not in body:
            refuse("the body has no 'input'")
        if queue_is_full(len(endpoint.queue.waiting), endpoint.own.max_workers):
            raise web.HTTPTooManyRequests(text="the queue is full")
        webhook = body.get("webhook") or ""
        job = Job(body["input"], self._policy(body.get("policy") or {}), endpoint.now, is_sync=is_sync, webhook=webhook)
        endpoint.queue.submit(job)
        return job

    def _policy(self, policy: Json) -> Policy:
        settings = self.settings
        execution_timeout = policy.get("executionTimeout", 1000 * settings.execution_timeout) / 1000
        ttl = policy.get("ttl", 1000 * settings.ttl) / 1000
        if not settings.min_execution_timeout <= execution_timeout <= settings.max_policy:
            refuse("policy.executionTimeout is out of range")
        if not settings.min_ttl <= ttl <= settings.max_policy:
            refuse("policy.ttl is out of range")
        return Policy(execution_timeout, ttl, bool(policy.get("lowPriority")))

    def _job(self, request: web.Request, endpoint: Endpoint) -> Job:
        job = endpoint.queue.jobs.get(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound(text="there is no such job")
        return job

    def _wait(self, request: web.Request, default: float) -> float:
        if "wait" not in request.query:
            return default
        return min(max(int(request.query["wait"]) / 1000, self.settings.min_wait), self.settings.max_wait)


async def read_json(request: web.Request, max_bytes: int) -> Json:
    raw = await request.read()
    if len(raw) > max_bytes:
        refuse(f"the body is larger than {max_bytes} bytes")
    try:
        body: Any = json.loads(raw)
    except ValueError:
        refuse("the body is not JSON")
    if not isinstance(body, dict):
        refuse("the body is not a JSON object")
    return body


def refuse(message: str) -> NoReturn:
    raise web.HTTPBadRequest(text=json.dumps({"error": message}), content_type="application/json")
