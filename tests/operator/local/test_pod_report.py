"""What is told of the pods of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flash_api import names
from flash_operator import pod_reports
from flash_operator.cluster.protocol import Key
from flash_operator.local.pod_report import pods_of


def a_pod(folder: Path, *, name: str = "chat", component: str = "engine", done: bool = True, **pod: Any) -> Any:
    """As much of a Pod as is looked at, whose pull has found a model."""
    file = folder / f"{name}-{component}.json"
    model = {"name": "Tiny", "tokenizer": "ab" * 32}
    file.write_text(json.dumps({"phase": "ready", "done": 1, "total": 1, "unit": "tensors", "model": model}))
    pull = SimpleNamespace(
        spec=SimpleNamespace(name="pull", progress=file), state=SimpleNamespace(done=done, pid=None if done else 7)
    )
    spec = SimpleNamespace(name=f"{name}-0", namespace="default", labels=names.pod_selector(name, component))
    return SimpleNamespace(**{"spec": spec, "init": [pull], "stopping": False, **pod})


def test_what_a_pull_has_found_is_told_as_a_kubelet_would(tmp_path: Path) -> None:
    found = pods_of(Key("default", "chat"), [a_pod(tmp_path), a_pod(tmp_path, component="draft")])
    assert pod_reports.tokenizers(found, "engine") == pod_reports.tokenizers(found, "draft") == {"ab" * 32}
    assert pod_reports.failing(found, "engine") is None
    assert pod_reports.last_failure(found) is None


def test_a_pull_that_is_under_way_has_found_nothing_yet(tmp_path: Path) -> None:
    found = pods_of(Key("default", "chat"), [a_pod(tmp_path, done=False)])
    assert pod_reports.tokenizers(found, "engine") == frozenset()


def test_pods_of_others_and_those_that_stop_are_left_out(tmp_path: Path) -> None:
    pods = [a_pod(tmp_path, name="other"), a_pod(tmp_path, stopping=True)]
    assert pods_of(Key("default", "chat"), pods) == ()
