"""Alerts and dashboard: every query is right, is about series that somebody exports, and fires when it should."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.triton_metrics import fake_module
from helm_plugin import CHART, Helm
from prometheus_client import CollectorRegistry

from flash_operator.metrics import Metrics as OperatorMetrics
from flash_runtime.gateway.metrics import Metrics as GatewayMetrics

Manifest = dict[str, Any]

BACKEND = tuple(f"flash_runtime.backend.{name}" for name in ("speculation_metrics", "metrics", "draft_metrics"))
NAMES = re.compile(r"\b(?:flashplane|flash_engine|flash_draft|nv)_[a-z_]+\b")
OF_TARGETS = frozenset({"namespace", "pod", "job", "instance", "container", "endpoint"})
"""Labels that the Prometheus operator adds."""
ALERTS_TESTS = Path(__file__).parent / "alerts_test.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"


def of_registry(registry: CollectorRegistry) -> Iterator[tuple[str, set[str]]]:
    """The names of all series, also of those that have none yet, and their labels."""
    for collector in registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for name in registry._collector_to_names[collector]:
            buckets = {"le"} if name.endswith("_bucket") else set()
            yield name, labels | buckets


@pytest.fixture(scope="module")
def exported() -> Mapping[str, set[str]]:
    """Every metric that operator, gateway and engine export, with its labels."""
    gateway = GatewayMetrics("chat")
    gateway.watch_certificate(lambda: 0.0)
    found = dict(of_registry(OperatorMetrics().registry))
    found |= dict(of_registry(gateway._registry))
    module, of_engine = fake_module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        for name in BACKEND:
            patch.delitem(sys.modules, name, raising=False)
        engine, draft = (importlib.import_module(name) for name in BACKEND[-2:])
        engine.EngineMetrics("chat", lambda: np.ones((2, 4), dtype=np.int64), proposes=True)
        draft.DraftMetrics("chat")
        for name in BACKEND:
            patch.delitem(sys.modules, name)
    return found | of_engine


@pytest.fixture(scope="module")
def alerts(helm: Helm) -> Manifest:
    text = helm.template("--set", "metrics.alerts.enabled=true", only=["alerts"])
    manifest: Manifest = yaml.safe_load(text)
    return manifest


def rules(alerts: Manifest) -> list[Manifest]:
    return [rule for group in alerts["spec"]["groups"] for rule in group["rules"]]


def queries() -> list[tuple[str, str]]:
    """Title and expression of everything on the dashboard."""
    board = json.loads(DASHBOARD.read_text())
    return [(p["title"], target["expr"]) for p in board["panels"] for target in p.get("targets", ())]


def labels_used(expression: str) -> set[str]:
    chosen = {match[1] for match in re.finditer(r'[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)\s*"', expression)}
    grouped = {each.strip() for match in re.finditer(r"by \(([^)]*)\)", expression) for each in match[1].split(",")}
    return chosen | grouped


def test_every_query_is_about_series_that_are_exported(alerts: Manifest, exported: Mapping[str, set[str]]) -> None:
    expressions = [*queries(), *((rule["alert"], rule["expr"]) for rule in rules(alerts))]
    for title, expression in expressions:
        named = NAMES.findall(expression)
        assert named, title
        assert set(named) <= exported.keys(), title
        labels = set.union(*(exported[name] for name in named)) | OF_TARGETS
        assert labels_used(expression) <= labels, title


def test_every_metric_stands_in_the_page_on_metrics(exported: Mapping[str, set[str]]) -> None:
    page = (CHART.parents[1] / "docs" / "metrics.md").read_text()
    parts = re.compile(r"_(total|bucket|sum|count|created)$")
    written = {parts.sub("", name) for name in NAMES.findall(page)}
    assert {parts.sub("", name) for name in exported} <= written


def test_an_alert_says_what_it_means_what_to_do_and_how_bad_it_is(alerts: Manifest) -> None:
    for rule in rules(alerts):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert len(rule["annotations"]["description"]) > 60, rule["alert"]
        assert "{{ttft" not in json.dumps(rule)


def test_every_alert_has_a_test(alerts: Manifest) -> None:
    tried = {
        case["alertname"]
        for test in yaml.safe_load(ALERTS_TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert tried == {rule["alert"] for rule in rules(alerts)}


def run(promtool: Path, *arguments: str) -> str:
    done = subprocess.run([str(promtool), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_fire_when_they_should_and_not_before(alerts: Manifest, promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(alerts["spec"]))
    (tmp_path / "test.yaml").write_text(ALERTS_TESTS.read_text())
    run(promtool, "check", "rules", str(tmp_path / "alerts.yaml"))
    run(promtool, "test", "rules", str(tmp_path / "test.yaml"))


def test_every_query_of_the_dashboard_is_promql(promtool: Path, tmp_path: Path) -> None:
    expressions = [
        expression.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$model", ".*")
        for _, expression in queries()
    ]
    assert not any("$" in expression for expression in expressions)
    recorded = [{"record": f"panel_{index}", "expr": each} for index, each in enumerate(expressions)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    run(promtool, "check", "rules", str(tmp_path / "panels.yaml"))


def test_thresholds_are_values_of_the_chart(helm: Helm) -> None:
    chosen = {"enabled": True, "ttftSeconds": 0.08, "certificateDays": 30}
    text = helm.template("--set-json", f"metrics.alerts={json.dumps(chosen)}", only=["alerts"])
    found = {rule["alert"]: rule["expr"] for rule in rules(yaml.safe_load(text))}
    assert found["FlashplaneTTFTOverTarget"].endswith("> 0.08")
    assert found["FlashplaneCertificateExpiring"].endswith("< 30 * 86400")


def test_the_dashboard_is_the_generated_one_and_the_chart_brings_it(helm: Helm) -> None:
    script = CHART.parent / "dashboard.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)
    config = yaml.safe_load(helm.template("--set", "metrics.dashboard.enabled=true", only=["dashboard"]))
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["flashplane.json"]) == json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(set(ids)) == len(ids)
