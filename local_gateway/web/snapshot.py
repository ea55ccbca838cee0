"""What the page shows of this moment, as JSON: requests, models, targets. Each key sees its own."""

from collections.abc import Iterable
from typing import Any

from local_gateway.accounts.auth import Principal
from local_gateway.accounts.usage import UsageRecord
from local_gateway.backends.base import Health
from local_gateway.config.settings import ModelSettings
from local_gateway.gateway import Gateway
from local_gateway.routing.target import Target
from local_gateway.telemetry.live_requests import LiveView
from local_gateway.web.health_board import HealthBoard

MAX_SHOWN = 200  # running requests
Json = dict[str, Any]


def snapshot(gateway: Gateway, board: HealthBoard, principal: Principal) -> Json:
    """All of it. `version` changes with what is shown, not with the time that passes."""
    live = [request.view() for request in gateway.live_requests if sees(principal, request.key_id)]
    models = {
        name: model for name, model in gateway.active.settings.models.items() if principal.may_use(name.rstrip("*"))
    }
    targets = list(dict.fromkeys(target for name in models for target in gateway.active.targets[name]))
    healths = board.look(targets)
    return {
        "requests": [_running(view) for view in live[:MAX_SHOWN]],
        "recent": [_ended(record) for record in gateway.live_requests.recent if sees(principal, record.key_id)],
        "models": [_model(name, model, gateway.active.targets[name]) for name, model in models.items()],
        "targets": {target.name: _target(target, healths[target], gateway) for target in targets},
    }


def is_changed(before: Json | None, now: Json) -> bool:
    """Whether the page would show something else; ages it counts by itself."""
    return before is None or _without_ages(before) != _without_ages(now)


def sees(principal: Principal, key_id: str) -> bool:
    """Whether a request of this key is shown, and may be cancelled."""
    return principal.is_admin or principal.id == key_id


def _without_ages(shown: Json) -> Json:
    requests = [{**each, "age": 0, "waited": 0, "cost": 0} for each in shown["requests"]]
    targets = {name: {**each, "available_in": 0} for name, each in shown["targets"].items()}
    return {**shown, "requests": requests, "targets": targets}


def _running(view: LiveView) -> Json:
    return {
        "id": view.id,
        "key": view.key_name,
        "model": view.model,
        "target": view.target,
        "state": view.state,
        "age": round(view.age, 2),
        "waited": round(view.waited, 2),
        "tokens": view.num_tokens,
        "speed": view.tokens_per_second and round(view.tokens_per_second, 1),
        "cost": view.cost,
    }


def _ended(record: UsageRecord) -> Json:
    return {
        "id": record.request_id,
        "time": record.time,
        "key": record.key_name,
        "model": record.model,
        "target": record.target,
        "outcome": record.outcome,
        "status": record.status,
        "prompt_tokens": record.num_prompt_tokens,
        "completion_tokens": record.num_completion_tokens,
        "first_token": record.first_token_seconds,
        "seconds": record.total_seconds,
        "cost": record.cost,
        "is_cold": record.is_cold,
    }


def _model(name: str, model: ModelSettings, targets: Iterable[Target]) -> Json:
    cold = model.cold_start
    facts = [
        f"context {model.context_length:,}" if model.context_length else "",
        f"cold start: {cold.use} after {_duration(cold.after)}" if cold else "",
        f"falls back to {', '.join(model.fallbacks)}" if model.fallbacks else "",
        f"cached by {model.cache.scope}" if model.cache else "",
        f"single-flight by {model.coalesce}" if model.coalesce else "",
    ]
    return {
        "name": name,
        "description": model.description or "",
        "facts": [fact for fact in facts if fact],
        "targets": [{"name": target.name, "priority": target.settings.priority} for target in targets],
    }


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"


def _target(target: Target, health: Health | None, gateway: Gateway) -> Json:
    cold = gateway.live_requests.cold_starts.get(target.name)
    return {
        "type": target.settings.type,
        "breaker": target.states[-1],
        "available_in": round(target.available_in, 1),
        "in_flight": target.num_in_flight,
        "cold_starts": {"number": cold.number if cold else 0, "mean": cold.mean if cold else None},
        "health": health
        and {
            "is_ok": health.is_ok,
            "detail": health.detail,
            "ready": health.num_ready_workers,
            "starting": health.num_starting_workers,
            "queued": health.num_queued,
        },
    }
