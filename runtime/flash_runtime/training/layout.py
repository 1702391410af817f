"""How a dense FFN is cut into a shared expert and routed experts. Plain numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertLayout:
    """Sizes of one sparse layer."""

    shared_width: int
    """Inner features that every token passes."""
    experts: int
    expert_width: int
    top_k: int
    """Routed experts of each token."""

    @property
    def width(self) -> int:
        """Inner features of the dense FFN it was cut from."""
        return self.shared_width + self.experts * self.expert_width

    @property
    def active_share(self) -> float:
        """Share of the inner features that a token passes."""
        return (self.shared_width + self.top_k * self.expert_width) / self.width

    def check(self, width: int) -> None:
        """Raises ValueError unless it uses every feature of a dense FFN of that width."""
        if self.width != width:
            raise ValueError(
                f"shared_width ({self.shared_width}) + experts ({self.experts}) x expert_width ({self.expert_width}) "
                f"is {self.width}, the teacher's FFN has {width}: they must be equal"
            )
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k ({self.top_k}) must be from 1 to the {self.experts} experts")
