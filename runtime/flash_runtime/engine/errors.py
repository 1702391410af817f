"""Why the engine refuses or gives up on a request.

EngineError
├── RequestRefused    what the caller sent can never run here: names the field, the value and the rule
├── QueueFull         nothing wrong with it, but no room now: try again or elsewhere
├── NonFiniteLogits   the model produced NaN or infinity for this sequence
└── NoTokenAllowed    the sequence's token mask and biases leave nothing to choose
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of everything the engine raises on purpose."""


class RequestRefused(EngineError):
    """A request that breaks a rule of this engine."""

    def __init__(self, *, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field} ({value}) {rule}")
        self.field = field
        self.value = value
        self.rule = rule


class QueueFull(EngineError):
    """Every place, running and waiting, is taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the engine already holds {limit} requests, the most it may; try again later")
        self.limit = limit


class NonFiniteLogits(EngineError):
    """No token can be chosen from these logits."""


class NoTokenAllowed(EngineError):
    """A token mask forbids every token, or is not made for this vocabulary."""
