"""/openai/v1/*: OpenAI's API over jobs. Seen in workers, documented nowhere, so most of it is inferred.

The request's body becomes a job's input. Text that the worker streams is the response's body, piece after piece; of an
answer that is not streamed the first output is.
"""

import json

from aiohttp import web

from .calls import call
from .client_api import ClientApi, read_json
from .endpoint import Endpoint
from .job import Job, Status


class OpenAiApi(ClientApi):
    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/v2/{endpoint}/openai/{route:.*}", self.openai, name="openai")]

    @call
    async def openai(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """The worker is not told the verb, nor any header."""
        body = await read_json(request, self.settings.max_runsync_bytes) if request.method == "POST" else {}
        job_input = {"openai_route": "/" + request.match_info["route"], "openai_input": body}
        job = self.submit(endpoint, {"input": job_input}, is_sync=True)
        try:
            if body.get("stream") is True:
                return await self._streamed(request, endpoint, job)
            await endpoint.until_over(job, self.settings.openai_wait)
            return self._whole(job)
        except BaseException:  # the client hung up
            if self.settings.cancel_on_disconnect:
                endpoint.queue.cancel(job, endpoint.now)
            raise

    async def _streamed(self, request: web.Request, endpoint: Endpoint, job: Job) -> web.StreamResponse:
        """200 once there is something to send [UNK]; a job that fails later breaks the connection [UNK]."""
        await endpoint.until_news(job, self.settings.openai_wait)
        if not job.unread:
            return self._whole(job)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            for item in job.drain():
                await response.write(_text(item["output"]).encode())
            if job.status.is_final:
                break
            await endpoint.until_news(job, self.settings.openai_wait)
        if job.status is not Status.COMPLETED and request.transport is not None:
            request.transport.abort()
        return response

    def _whole(self, job: Job) -> web.Response:
        if not job.status.is_final:
            return web.json_response({"error": "the job is not finished"}, status=504)
        if job.status is not Status.COMPLETED:
            body = {"error": job.error or job.status} if self.settings.openai_error_body else None
            return web.json_response(body, status=500)
        first = job.output[0] if isinstance(job.output, list) and job.output else job.output
        return web.Response(text=_text(first), content_type="application/json")


def _text(output: object) -> str:
    return output if isinstance(output, str) else json.dumps(output)
