"""A worker on this machine: `python -m handler serve` as a child process, and HTTP to it.

The worker's port and key are known to the gateway alone: clients reach the worker through it.
"""

import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus

import orjson
from pydantic import SecretStr

from local_gateway.backends.base import Call, Health
from local_gateway.backends.http import HttpClient, HttpUpstream
from local_gateway.backends.local.child_process import Child
from local_gateway.backends.local.supervisor import Look, Supervisor
from local_gateway.backends.openai import HEALTH_TIMEOUT, OpenAIBackend
from local_gateway.config.settings import LocalTarget, OpenAITarget
from local_gateway.errors import GatewayExhaustedError, TargetError, TargetTimeoutError, TargetUnreachableError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
WORKER = (sys.executable, "-m", "handler", "serve")
# Settings that only the gateway gives the worker, under all the names that it knows for these settings.
TOLD = {
    *("MODEL", "MODEL_NAME", "LLAMA_MODEL_FILE", "LLAMA_ARG_MODEL"),
    *("MODEL_ALIAS", "OPENAI_SERVED_MODEL_NAME_OVERRIDE", "LLAMA_ARG_ALIAS"),
    *("HOST", "LLAMA_ARG_HOST", "PORT", "LLAMA_ARG_PORT", "API_KEY", "LLAMA_API_KEY"),
}
GATEWAYS_OWN = ("GATEWAY_", "OPENAI_", "RUNPOD_")  # settings and keys that a worker has no use for
LOG_LINE = re.compile(r"\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")


class LocalBackend:
    """One worker, kept running from `start` or the first call to `aclose`.

    A call that comes while the worker starts waits for it. The worker has one model, so what clients call it does not
    matter here: without a name of its own (`model` in the settings) the call is sent without one.
    """

    def __init__(self, settings: LocalTarget, http: HttpClient) -> None:
        self._settings = settings
        self._http = http
        self._key = settings.env.get("API_KEY") or secrets.token_urlsafe()
        self._plain: OpenAIBackend | None = None  # to where the present process listens
        self._ping_url = ""
        model = settings.gguf.partition("?")[0].rpartition("/")[2]  # a whole URL may have secrets in it
        self._name = f"worker {settings.name or model}"
        self._supervisor = Supervisor(
            self._name, self._start_process, self._look, listen_seconds=settings.listen_timeout
        )

    def start(self) -> None:
        """Begin to load the model, unless that has been done."""
        self._supervisor.start()

    async def open(self, call: Call) -> HttpUpstream:
        """Waits for the worker if it is starting. Raises TargetError if it cannot be started or does not answer."""
        if await self._supervisor.ready() is not None:
            raise TargetUnreachableError("The worker on this machine cannot be started. The gateway's log says why.")
        assert self._plain is not None
        return await self._plain.open(call if self._settings.model else without_model(call))

    async def health(self) -> Health:
        """Starts nothing."""
        if not self._supervisor.is_started:
            return Health(True, "starts with the gateway", num_ready_workers=0)
        if reason := self._supervisor.failure:
            return Health(False, reason, num_ready_workers=0)
        if self._supervisor.is_ready and await self._look() == "ready":
            return Health(True, "the worker answers", num_ready_workers=1, num_starting_workers=0)
        return Health(True, "the worker is starting", num_ready_workers=0, num_starting_workers=1)

    async def aclose(self) -> None:
        """Returns when the worker is gone."""
        await self._supervisor.aclose()

    async def _start_process(self) -> Child:
        """Raises OSError, also if another program listens on the worker's port."""
        with socket.create_server((HOST, self._settings.port)) as listener:
            port = listener.getsockname()[1]
        url = f"http://{HOST}:{port}"
        self._ping_url = f"{url}/ping"
        to_worker = OpenAITarget(
            type="openai", base_url=f"{url}/v1", api_key=SecretStr(self._key), headers=self._settings.headers
        )
        self._plain = OpenAIBackend(to_worker, self._http)
        environ = environment(self._settings, os.environ, port, self._key)
        return await Child.start(WORKER, environ, self._log_line)

    async def _look(self) -> Look:
        try:
            status = (await self._http.fetch("GET", self._ping_url, timeout=HEALTH_TIMEOUT)).status
        except TargetTimeoutError:
            return "silent"
        except GatewayExhaustedError:
            return "starting"  # this process has no file for a look
        except TargetUnreachableError:
            return "closed"
        except TargetError:
            return "starting"
        return "ready" if status == HTTPStatus.OK else "starting"

    def _log_line(self, line: str) -> None:
        """A line of the worker's log, at its own level. Prompts are in none of them."""
        match = LOG_LINE.fullmatch(line)
        level, text = (logging.getLevelNamesMapping()[match[1]], match[2]) if match else (logging.INFO, line)
        log.log(level, "%s: %s", self._name, text)


def environment(settings: LocalTarget, ours: Mapping[str, str], port: int, key: str) -> dict[str, str]:
    """What the worker sees: settings of the target, then those of the environment that are meant for it."""
    kept = {name: value for name, value in ours.items() if name not in TOLD and not name.startswith(GATEWAYS_OWN)}
    alias = {"MODEL_ALIAS": settings.model} if settings.model else {}
    told = {"MODEL": settings.gguf, "HOST": HOST, "PORT": str(port), "API_KEY": key}
    return {**kept, **alias, **settings.env, **told}


def without_model(call: Call) -> Call:
    """The same for a server that has only one model. What is no JSON object stays as it is."""
    try:
        body = orjson.loads(call.body)
    except orjson.JSONDecodeError:
        return call
    if not isinstance(body, dict):
        return call
    body.pop("model", None)
    return replace(call, body=orjson.dumps(body))
