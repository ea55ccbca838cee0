"""The list of an endpoint's workers, from RunPod's REST API."""

from local_gateway.backends.base import configured_headers
from local_gateway.backends.http import HttpClient
from local_gateway.backends.runpod.api_types import body_of
from local_gateway.config.settings import RunpodTarget
from local_gateway.wire.worker_list import SeenWorker, workers_in

TIMEOUT = 10.0  # seconds


class WorkerList:
    """The workers of one endpoint. It asks the platform and no worker, so that none is started by it."""

    def __init__(self, settings: RunpodTarget, http: HttpClient) -> None:
        self._http = http
        self._url = f"{settings.rest_url.rstrip('/')}/serverless/{settings.endpoint_id}/workers"
        key = settings.api_key.get_secret_value()
        self._headers = {"authorization": f"Bearer {key}", **configured_headers(settings)}

    async def workers(self) -> list[SeenWorker]:
        """Those that are billed now. Raises RequestError; tried once."""
        reply = await self._http.fetch("GET", self._url, headers=self._headers, body=b"", timeout=TIMEOUT)
        return workers_in(body_of(reply))
