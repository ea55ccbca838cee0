"""Writes grafana.json beside it: `python deploy/observability/dashboard.py`. The panels are the table below."""

import json
from pathlib import Path
from typing import Any, NamedTuple

OUTPUT = Path(__file__).parent / "grafana.json"
UID = "gguf-on-runpod-gateway"
SOURCE = {"type": "prometheus", "uid": "${source}"}
FLOW = 'model=~"$model", target=~"$target"'
RATE = "$__rate_interval"


class Panel(NamedTuple):
    title: str
    queries: dict[str, str]  # PromQL by its legend
    unit: str = "short"
    kind: str = "timeseries"
    text: str = ""


ROWS: dict[str, list[Panel]] = {
    "Traffic": [
        Panel(
            "Requests by outcome",
            {"{{outcome}}": f"sum by (outcome) (rate(gateway_requests_total{{{FLOW}}}[{RATE}]))"},
            "reqps",
        ),
        Panel("Running now", {"running": "sum(gateway_requests_in_flight)"}),
        Panel(
            "Share that failed at a target",
            {
                "{{model}}": f'sum by (model) (rate(gateway_requests_total{{{FLOW}, outcome="target_error"}}[{RATE}]))'
                f" / sum by (model) (rate(gateway_requests_total{{{FLOW}}}[{RATE}]))"
            },
            "percentunit",
        ),
    ],
    "Latency": [
        Panel(
            f"First token, {name}",
            {
                "{{model}}": f"histogram_quantile({quantile}, sum by (le, model) "
                f"(rate(gateway_first_token_seconds_bucket{{{FLOW}}}[{RATE}])))"
            },
            "s",
        )
        for name, quantile in (("median", 0.5), ("95 of 100", 0.95))
    ]
    + [
        Panel(
            "Whole request, 95 of 100",
            {
                "{{model}}": f"histogram_quantile(0.95, sum by (le, model) "
                f"(rate(gateway_request_seconds_bucket{{{FLOW}}}[{RATE}])))"
            },
            "s",
        ),
    ],
    "Tokens and cost": [
        Panel("Tokens a second", {"{{kind}}": f"sum by (kind) (rate(gateway_tokens_total{{{FLOW}}}[{RATE}]))"}),
        Panel(
            "Share of the prompt that was cached",
            {
                "{{model}}": f'sum by (model) (rate(gateway_tokens_total{{{FLOW}, kind="cached"}}[{RATE}]))'
                f' / sum by (model) (rate(gateway_tokens_total{{{FLOW}, kind="prompt"}}[{RATE}]))'
            },
            "percentunit",
        ),
        Panel(
            "Cost an hour",
            {"{{model}} at {{target}}": f"3600 * sum by (model, target) (rate(gateway_cost_total{{{FLOW}}}[{RATE}]))"},
            text="In the currency of the configured prices.",
        ),
        Panel(
            "Answers that cost nothing",
            {"{{result}}": f'sum by (result) (rate(gateway_shared_answers_total{{model=~"$model"}}[{RATE}]))'},
            "reqps",
            text="Shared with a request in flight, or out of the cache.",
        ),
    ],
    "Targets": [
        Panel(
            "Circuit breaker",
            {"{{target}}: {{state}}": 'max by (target, state) (gateway_breaker_state{target=~"$target"}) == 1'},
            kind="state-timeline",
        ),
        Panel("Could be reached", {"{{target}}": 'min by (target) (gateway_target_up{target=~"$target"})'}, "bool"),
        Panel(
            "Workers", {"{{target}} {{state}}": 'max by (target, state) (gateway_target_workers{target=~"$target"})'}
        ),
        Panel("Jobs in RunPod's queue", {"{{target}}": 'max by (target) (gateway_target_queued{target=~"$target"})'}),
        Panel(
            "Calls without an answer",
            {
                "{{target}}: {{reason}}": "sum by (target, reason) "
                f'(rate(gateway_target_failures_total{{target=~"$target"}}[{RATE}]))'
            },
            "reqps",
        ),
        Panel(
            "Calls a request",
            {
                "{{model}}": f'sum by (model) (rate(gateway_attempts_total{{model=~"$model"}}[{RATE}]))'
                f' / sum by (model) (rate(gateway_requests_total{{model=~"$model"}}[{RATE}]))'
            },
        ),
    ],
    "Cold starts": [
        Panel(
            "Waits for a worker, an hour",
            {
                "{{target}}": "3600 * sum by (target) "
                f'(rate(gateway_cold_start_seconds_count{{target=~"$target"}}[{RATE}]))'
            },
        ),
        Panel(
            "How long, 95 of 100",
            {
                "{{target}}": "histogram_quantile(0.95, sum by (le, target) "
                f'(rate(gateway_cold_start_seconds_bucket{{target=~"$target"}}[{RATE}])))'
            },
            "s",
        ),
    ],
    "RunPod's workers": [
        Panel(
            "Billed seconds, an hour",
            {"{{endpoint}}": f"3600 * max by (endpoint) (rate(gateway_worker_billed_seconds_total[{RATE}]))"},
            "s",
            text="Of endpoints with a worker_price: start, work and idle time. Each gateway sees all of an endpoint.",
        ),
        Panel(
            "Cost an hour, by the bill",
            {"{{endpoint}}": f"3600 * max by (endpoint) (rate(gateway_worker_cost_total[{RATE}]))"},
            text="Billed seconds by worker_price, whatever keys were charged.",
        ),
        Panel(
            "Starts, an hour",
            {"{{endpoint}}": f"3600 * max by (endpoint) (rate(gateway_worker_starts_total[{RATE}]))"},
        ),
    ],
    "The gateway itself": [
        Panel("Usage records that wait", {"waiting": "sum(gateway_usage_queued)"}),
        Panel("Usage records that were lost", {"lost": f"sum(rate(gateway_usage_dropped_total[{RATE}]))"}),
        Panel("Memory", {"{{instance}}": "process_resident_memory_bytes"}, "bytes"),
        Panel("Processor", {"{{instance}}": f"rate(process_cpu_seconds_total[{RATE}])"}, "percentunit"),
    ],
}


def document() -> dict[str, Any]:
    """Grafana's form of the table."""
    return {
        "uid": UID,
        "title": "gguf-on-runpod: gateway",
        "tags": ["llm", "gateway"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    return [source] + [
        {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": f"label_values(gateway_requests_total, {name})",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
        for name in ("model", "target")
    ]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(_placed({"type": "row", "title": title, "collapsed": False}, len(panels), (0, top, 24, 1)))
        top += 1
        columns = 2 if len(row) in (2, 4) else 3
        for index, panel in enumerate(row):
            place = (24 // columns * (index % columns), top + 8 * (index // columns), 24 // columns, 8)
            panels.append(_placed(_panel(panel), len(panels), place))
        top += 8 * -(-len(row) // columns)
    return panels


def _placed(panel: dict[str, Any], number: int, place: tuple[int, int, int, int]) -> dict[str, Any]:
    """`place`: left, top, width, height, in Grafana's 24 columns."""
    left, top, width, height = place
    return {"id": number + 1, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **panel}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(65 + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for index, (legend, expression) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(document(), indent=2) + "\n")
