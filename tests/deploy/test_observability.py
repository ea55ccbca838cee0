"""What the dashboard of Grafana and the alert rules ask for is what the gateway tells."""

import re
from pathlib import Path

import pytest

from local_gateway.telemetry.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"


@pytest.mark.parametrize("file", ["grafana.json", "alerts.yml"])
def test_metrics_exist(file: str) -> None:
    """A metric that was renamed would leave an empty panel, and an alert that never comes."""
    told = set(re.findall(r"^# TYPE (\w+)", Metrics().exposition().decode(), re.MULTILINE))
    asked = set(re.findall(r"\b(?:gateway|process)_[a-z_]+", (FOLDER / file).read_text()))

    assert asked
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} <= told
