"""One running gateway: its parts, put together; what a reload replaces, and what it keeps."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from local_gateway.accounts.auth import Authenticator
from local_gateway.accounts.limiter import Limiter
from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun, WorkerRuns
from local_gateway.backends.base import Backend
from local_gateway.backends.http import HttpClient
from local_gateway.backends.local.backend import LocalBackend
from local_gateway.backends.openai import OpenAIBackend
from local_gateway.backends.runpod.load_balancer import RunpodLbBackend
from local_gateway.backends.runpod.queue import RunpodQueueBackend
from local_gateway.backends.runpod.worker_list import WorkerList
from local_gateway.config.load import secrets_of
from local_gateway.config.proxy import ProxyRules
from local_gateway.config.redactor import Redactor
from local_gateway.config.settings import (
    GatewaySettings,
    LocalTarget,
    OpenAITarget,
    RunpodLbTarget,
    RunpodQueueTarget,
    RunpodTarget,
)
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.edge.running_requests import RunningRequests
from local_gateway.errors import UnavailableError
from local_gateway.routing.answer_source import AnswerSource
from local_gateway.routing.cold_start import ColdStartFallback
from local_gateway.routing.dispatcher import Dispatcher
from local_gateway.routing.model_list import ModelList
from local_gateway.routing.router import Router
from local_gateway.routing.target import STATES, Target, names_of
from local_gateway.routing.worker_watch import Look, WorkerWatch
from local_gateway.routing.worker_watches import MakeWatch, WorkerWatches
from local_gateway.sharing.shared_answers import SharedAnswers, Sharing
from local_gateway.telemetry.live_requests import LiveRequests
from local_gateway.telemetry.logs import log_request
from local_gateway.telemetry.metrics import Metrics
from local_gateway.telemetry.tracing import NoTracer, Tracer

log = logging.getLogger(__name__)

Targets = Mapping[str, tuple[Target, ...]]  # by the models' configured names
MakeBackend = Callable[[TargetSettings], Backend]


class Recorder(Protocol):
    """Keeps the records of requests and of workers. Never waits, never raises."""

    @property
    def num_queued(self) -> int: ...

    @property
    def num_dropped(self) -> int: ...

    def record(self, record: UsageRecord) -> None: ...

    def note_runs(self, runs: Sequence[WorkerRun]) -> None: ...


class ActiveConfig:
    """Everything derived from one configuration snapshot. A request keeps the one it began with."""

    def __init__(self, settings: GatewaySettings, targets: Targets, shared: SharedAnswers, metrics: Metrics) -> None:
        self.settings = settings
        self.targets = targets
        self.router = Router(settings, targets)
        self.models = ModelList(settings, self.router, int(time.time()), time.monotonic)
        dispatcher = Dispatcher(settings, metrics, time.monotonic, random.Random())
        self.answers: AnswerSource = Sharing(ColdStartFallback(dispatcher), shared)


class Gateway:
    """The parts of one running gateway. Made inside the event loop; the database's reader feeds `auth` and `limiter`.

    Owns the targets (with their workers and connections), the metrics and the active configuration. Knows nothing of
    HTTP and of the database.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        auth: Authenticator,
        limiter: Limiter,
        recorder: Recorder,
        *,
        make_backend: MakeBackend | None = None,
        make_watch: MakeWatch | None = None,
        tracer: Tracer | None = None,
        proxies: ProxyRules | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        """`redactor` knows the secrets of all configurations that come; by default those of this one."""
        self.auth = auth
        self.limiter = limiter
        self.metrics = Metrics()
        self.live_requests = LiveRequests()
        self.running = RunningRequests()
        self.redactor = redactor or Redactor(secrets_of(settings))
        self.is_stopping = asyncio.Event()  # what has no end by itself ends now
        self.tracer = tracer or NoTracer()
        self._recorder = recorder
        self._http = HttpClient(settings.timeouts, proxies, ca_file=settings.outbound.ca_file)
        self._make_backend = make_backend or partial(backend_for, http=self._http)
        self._watches = WorkerWatches(make_watch or self._watch_for)
        self._shared = SharedAnswers()
        self._num_requests = 0
        self._retiring: dict[Target, asyncio.Task[None]] = {}
        self.active = self._build(settings, [])
        self._is_started = False

    def start(self) -> None:
        """Start the workers on this machine, without it each starts with its first request; and count RunPod's."""
        self._is_started = True
        self._watches.start()
        for target in distinct(self.active.targets):
            if isinstance(target.backend, LocalBackend):
                target.backend.start()

    def reload(self, settings: GatewaySettings) -> None:
        """New requests go by the new configuration. A target that stays as it is keeps its state and its worker."""
        before = distinct(self.active.targets)
        self.active = self._build(settings, before)
        self._shared.forget_except(settings.models)
        self.auth.require_keys = settings.server.require_keys
        kept = distinct(self.active.targets)
        for target in before:
            if target not in kept:
                self._retiring[target] = asyncio.create_task(self._retire(target))
        self.metrics.forget_targets_except({target.name for target in kept})
        if self._is_started:
            self.start()

    async def aclose(self) -> None:
        """After the last request: ends workers and connections."""
        for retiring in self._retiring.values():
            retiring.cancel()
        await self._watches.aclose()
        await asyncio.gather(*(close(target) for target in [*distinct(self.active.targets), *self._retiring]))
        await self._http.aclose()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Around one request. Raises UnavailableError when there are too many."""
        if self._num_requests >= self.active.settings.server.max_requests:
            raise UnavailableError("The gateway is busy. Try again later.", code="overloaded", retry_after=1.0)
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    def exposition(self) -> bytes:
        """All metrics; gauges of what can be seen are set now."""
        self.metrics.requests_in_flight(self._num_requests)
        self.metrics.usage_queue(self._recorder.num_queued, self._recorder.num_dropped)
        for target in distinct(self.active.targets):
            self.metrics.breaker_changed(target.name, target.states[-1], STATES)
        return self.metrics.exposition()

    def request_ended(self, record: UsageRecord, *, is_known: bool) -> None:
        """`is_known`: the request was authenticated. Others are not stored, or strangers could fill the disk."""
        self.metrics.request_ended(record)
        log_request(record)
        if is_known:
            self.live_requests.ended(record)
            self._recorder.record(record)

    async def _retire(self, target: Target) -> None:
        """Close a target that is no longer configured, when its last answer is over."""
        await target.is_idle.wait()
        await close(target)
        del self._retiring[target]
        log.info("target %s: is no longer configured", target.name, extra={"target": target.name})

    def _watch_for(self, settings: RunpodTarget) -> WorkerWatch:
        runs = WorkerRuns(settings.endpoint_id, settings.worker_price)

        def note(changed: Sequence[WorkerRun]) -> None:
            self.metrics.workers_seen(runs.endpoint, runs.new_seconds, runs.new_starts, runs.price)
            self._recorder.note_runs(changed)

        return WorkerWatch(runs, look_for(settings, self._http), note)

    def _build(self, settings: GatewaySettings, old: Sequence[Target]) -> ActiveConfig:
        targets = build_targets(settings, self._make_backend, old)
        self._watches.attach(distinct(targets))
        return ActiveConfig(settings, targets, self._shared, self.metrics)


def build_targets(settings: GatewaySettings, make_backend: MakeBackend, old: Sequence[Target] = ()) -> Targets:
    """A Target for each different target in the configuration; of `old` ones those that are still in it."""
    all_settings: list[TargetSettings] = []
    for model in settings.models.values():
        all_settings += [target for target in model.targets if target not in all_settings]
    names = names_of(all_settings)
    built = [_find(old, *each) or _build(make_backend, *each) for each in zip(names, all_settings, strict=True)]
    return {
        name: tuple(built[all_settings.index(target)] for target in model.targets)
        for name, model in settings.models.items()
    }


def _find(targets: Sequence[Target], name: str, settings: TargetSettings) -> Target | None:
    return next((target for target in targets if target.settings == settings and target.name == name), None)


def _build(make_backend: MakeBackend, name: str, settings: TargetSettings) -> Target:
    return Target(name, settings, make_backend(settings), time.monotonic)


def backend_for(settings: TargetSettings, http: HttpClient) -> Backend:
    """A new type of target is a file in backends/, and a line here."""
    match settings:
        case OpenAITarget():
            return OpenAIBackend(settings, http)
        case RunpodQueueTarget():
            return RunpodQueueBackend(settings, http)
        case RunpodLbTarget():
            return RunpodLbBackend(settings, http)
        case LocalTarget():
            return LocalBackend(settings, http)


def look_for(settings: RunpodTarget, http: HttpClient) -> Look:
    """The call that asks RunPod for the endpoint's workers. It raises RequestError."""
    return WorkerList(settings, http).workers


def distinct(targets: Targets) -> list[Target]:
    return list(dict.fromkeys(target for group in targets.values() for target in group))


async def close(target: Target) -> None:
    """End what belongs to a target: a warm-up, connections, its worker."""
    if target.warm_up is not None:
        target.warm_up.cancel()
        await asyncio.wait([target.warm_up])
    await target.backend.aclose()
