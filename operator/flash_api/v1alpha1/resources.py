"""CPU and memory of one container, with the rules that keep them usable."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from flash_api.rules import Rule
from flash_api.v1alpha1.base import ApiModel, Quantity, quantity_at_least


class Resources(ApiModel):
    """CPU and memory of one container. Requests and limits are equal, so a pod is never evicted for using its own."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        quantity_at_least("CpuIsSomething", "cpu", "1m", "write cores such as 2, or thousandths such as 500m"),
        quantity_at_least(
            "MemoryIsUsable",
            "memory",
            "64Mi",
            "write bytes with a suffix, such as 2Gi; a bare number is bytes and m is thousandths of a byte",
        ),
    )

    cpu: Quantity | None = Field(
        default=None, description="CPU cores, as a Kubernetes quantity; unset = no request. Example: 2 or 500m."
    )
    memory: Quantity | None = Field(
        default=None, description="Memory in bytes, as a Kubernetes quantity; unset = no limit. Example: 2Gi."
    )
