"""CPU and memory of one container, with the rules that keep them usable."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from flash_api.quantities import number
from flash_api.rules import Rule
from flash_api.v1alpha1.base import ApiModel, Quantity


class Resources(ApiModel):
    """CPU and memory of one container. Requests and limits are equal, so a pod is never evicted for using its own."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="CpuIsSomething",
            field="cpu",
            cel="!has(self.cpu) || !isQuantity(self.cpu) || !quantity(self.cpu).isLessThan(quantity('1m'))",
            holds=lambda self: self.cpu is None or number(self.cpu) >= number("1m"),
            rule="must be at least 1m",
            remedy="write cores such as 2, or thousandths such as 500m",
        ),
        Rule(
            name="MemoryIsUsable",
            field="memory",
            cel="!has(self.memory) || !isQuantity(self.memory) || !quantity(self.memory).isLessThan(quantity('64Mi'))",
            holds=lambda self: self.memory is None or number(self.memory) >= number("64Mi"),
            rule="must be at least 64Mi",
            remedy="write bytes with a suffix, such as 2Gi; a bare number is bytes and m is thousandths of a byte",
        ),
    )

    cpu: Quantity | None = Field(
        default=None, description="CPU cores, as a Kubernetes quantity; unset = no request. Example: 2 or 500m."
    )
    memory: Quantity | None = Field(
        default=None, description="Memory in bytes, as a Kubernetes quantity; unset = no limit. Example: 2Gi."
    )
