"""What users felt lately, in steps: figures that wobble must not have the status written again and again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from flash_api.v1alpha1.status_details import MILLISECONDS_MAX, Latency

STEP: Final = 0.2
"""A figure is written anew when it is off by more than this share of what was written."""
HEADER: Final = "Server-Timing"
"""In which a gateway tells them beside the answer of `/readyz`, as W3C's Server-Timing has it."""
_FIGURE: Final = re.compile(r"(?:^|,)\s*(ttft|tpot);dur=([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(?=,|$)")


def told(header: str) -> dict[str, float]:
    """Milliseconds by name, of the names that are known here; anything else is passed over."""
    return {name: float(value) for name, value in _FIGURE.findall(header)}


def latency(milliseconds: Mapping[str, float], written: Any) -> Latency | None:
    """What `status.latency` must say after a gateway told these, where it says `written` (in wire form, or None).

    A figure that was not told, as where nobody asked for anything lately, stays as it is.
    """
    former = Latency.model_validate(written or {}, extra="ignore")
    ttft = _stepped(milliseconds.get("ttft"), former.ttft_milliseconds)
    tpot = _stepped(milliseconds.get("tpot"), former.tpot_milliseconds)
    if ttft is None and tpot is None:
        return None
    return Latency(ttft_milliseconds=ttft, tpot_milliseconds=tpot)


def _stepped(now: float | None, written: int | None) -> int | None:
    if now is None or (written is not None and abs(now - written) <= max(1.0, STEP * written)):
        return written
    return min(MILLISECONDS_MAX, max(1, int(float(f"{now:.2g}"))))
