"""The part of `triton_python_backend_utils` by which a model exports metrics: remembers what was made."""

from __future__ import annotations

from types import ModuleType


class Metric:
    """One series."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.value = 0.0

    def increment(self, value: float) -> None:
        self.value += value

    def set(self, value: float) -> None:
        self.value = value


def fake_module() -> tuple[ModuleType, dict[str, set[str]]]:
    """The module, and the labels of each metric that is made with it, by name."""
    made: dict[str, set[str]] = {}

    class MetricFamily:
        COUNTER, GAUGE = "counter", "gauge"

        def __init__(self, name: str, description: str, kind: str) -> None:
            self.name = name
            made[name] = set()

        def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802  (tritonserver's name)
            made[self.name] |= labels.keys()
            return Metric(labels)

    module = ModuleType("triton_python_backend_utils")
    module.MetricFamily = MetricFamily  # type: ignore[attr-defined]
    return module, made
