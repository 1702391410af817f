"""What the operator's figures say after passes, calls and events."""

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from flash_operator.cluster.api import verb_and_resource
from flash_operator.cluster.protocol import Key
from flash_operator.metrics import Metrics
from flash_operator.reconcile import Outcome

A, B = Key("default", "a"), Key("default", "b")
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def an_outcome(**conditions: str) -> Outcome:
    said = [{"type": kind, "status": status} for kind, status in conditions.items()]
    return Outcome(status={"conditions": said})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_objects_are_counted_by_what_their_conditions_say_now() -> None:
    metrics = Metrics()
    metrics.is_now(A, an_outcome(Ready="False", Stalled="False"))
    metrics.is_now(B, an_outcome(Ready="True", Stalled="False"))
    metrics.is_now(A, an_outcome(Ready="True", Stalled="False"))
    count = "flashplane_objects_by_condition"
    assert value(metrics, count, condition="Ready", status="True") == 2
    assert value(metrics, count, condition="Ready", status="False") == 0
    assert value(metrics, count, condition="Stalled", status="False") == 2
    metrics.is_now(B, Outcome(gone=True))
    assert value(metrics, count, condition="Ready", status="True") == 1


def test_who_no_longer_leads_says_nothing_of_objects() -> None:
    metrics = Metrics()
    metrics.is_now(A, an_outcome(Ready="True"))
    metrics.forget()
    assert value(metrics, "flashplane_objects_by_condition", condition="Ready", status="True") is None


def test_calls_are_counted_by_verb_resource_and_code() -> None:
    metrics = Metrics()
    metrics.called("list", "pods", 200, 0.01)
    metrics.called("list", "pods", 0, 30.0)
    assert value(metrics, "flashplane_api_calls_total", verb="list", resource="pods", code="200") == 1
    assert value(metrics, "flashplane_api_calls_total", verb="list", resource="pods", code="0") == 1


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("get", "/api/v1/namespaces/n/pods", ("list", "pods")),
        ("get", "/api/v1/namespaces/n/pods/p", ("get", "pods")),
        ("get", "/apis/flashplane.dev/v1alpha1/flashdeployments", ("list", "flashdeployments")),
        (
            "patch",
            "/apis/flashplane.dev/v1alpha1/namespaces/n/flashdeployments/x/status",
            ("patch", "flashdeployments/status"),
        ),
        ("put", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", ("update", "leases")),
        ("post", "/apis/events.k8s.io/v1/namespaces/n/events", ("create", "events")),
        ("delete", "/api/v1/namespaces/n/services/s", ("delete", "services")),
        ("get", "/apis/monitoring.coreos.com/v1", ("get", "discovery")),
        ("get", "/api/v1/namespaces/n", ("get", "namespaces")),
    ],
)
def test_a_call_is_named_as_the_api_names_it_and_holds_no_names(method: str, path: str, said: tuple[str, str]) -> None:
    assert verb_and_resource(method, path) == said


def test_every_figure_is_documented_and_nothing_else_is() -> None:
    documented = set(re.findall(r"`(flashplane_(?!gateway_)[a-z_]+?)(?:_total)?(?:\{[^}]*\})?`", PAGE.read_text()))
    shown = re.findall(r"^# HELP (\S+?)(?:_total)? ", generate_latest(Metrics().registry).decode(), re.MULTILINE)
    assert documented == {name for name in shown if not name.endswith("_created")}
