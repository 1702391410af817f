"""The pod template of a Deployment as it was planned, kept on it: the spec that it came of is gone once a newer one is
tried, and what lives may have been edited since. Pure.
"""

from __future__ import annotations

import json
from typing import Any

from flash_api import names
from flash_operator.plan.metadata import Manifest, content_hash


def written_template(template: Manifest) -> dict[str, str]:
    """The annotation that keeps it."""
    return {names.ANNOTATION_POD_TEMPLATE: json.dumps(template, sort_keys=True, separators=(",", ":"))}


def with_planned_template(live: Manifest) -> Manifest:
    """A live Deployment whose pods are as planned, where that was kept and is of its revision; else as it is found."""
    meta = live["metadata"]
    try:
        kept: Any = json.loads((meta.get("annotations") or {}).get(names.ANNOTATION_POD_TEMPLATE) or "null")
    except ValueError:  # another hand wrote it
        return live
    if not isinstance(kept, dict) or content_hash(kept) != (meta.get("labels") or {}).get(names.LABEL_REVISION):
        return live
    return {**live, "spec": {**live["spec"], "template": kept}}
