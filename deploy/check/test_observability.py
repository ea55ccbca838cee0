"""Grafana's dashboard and Prometheus' alert rules."""

import json
import re
import shutil

import promql_parser
import pytest
import yaml
from tools import ROOT, output_of

FOLDER = ROOT / "deploy" / "observability"
GRAFANA = json.loads((FOLDER / "grafana.json").read_text())
PANELS = [panel for panel in GRAFANA["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_expressions_are_promql(panel: dict[str, object]) -> None:
    for target in panel["targets"]:  # type: ignore[attr-defined]  # JSON
        expression = target["expr"].replace("$__rate_interval", "5m")
        promql_parser.parse(re.sub(r"\$(model|target)", ".*", expression))
        assert target["datasource"]["uid"] == "${source}"


def test_dashboard_is_written_from_its_table() -> None:
    """`python deploy/observability/dashboard.py` has been run after the last change."""
    output_of("python", "-c", "import sys; sys.path.insert(0, 'deploy/observability'); import dashboard, json; "
              "assert json.loads(dashboard.OUTPUT.read_text()) == dashboard.document()")  # fmt: skip


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in GRAFANA["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt-get install prometheus")
def test_alert_rules() -> None:
    output_of("promtool", "check", "rules", FOLDER / "alerts.yml")
    output_of("promtool", "test", "rules", FOLDER / "alerts.test.yml")


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]

    assert {rule["alert"] for rule in rules} == {
        each["alertname"] for test in tests for each in test["alert_rule_test"]
    }
