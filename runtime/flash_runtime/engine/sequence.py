"""One request's state inside the engine: its tokens, its blocks, how far it is computed. Decides nothing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from flash_runtime.engine.adjust import Adjuster
from flash_runtime.engine.blocks import Key
from flash_runtime.wire import GenerateRequest


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and what has been generated for it. Compared by identity."""

    request_id: str
    token_ids: list[int]
    """Prompt, then output."""
    num_prompt_tokens: int
    request: GenerateRequest
    root: Key
    """Key before the first block; carries the tenant's salt."""
    max_total_tokens: int
    """Prompt plus output at which generation ends with `length`."""
    adjuster: Adjuster | None = None
    """What the request changes about the logits; None = nothing."""
    arrival: int = 0
    """Set by the scheduler: the order of `add`."""
    num_computed_tokens: int = 0
    """Tokens whose keys and values are in `blocks`."""
    num_cached_tokens: int | None = None
    """Of the prompt, found in the cache when first admitted; None = not admitted yet."""
    blocks: array[int] = field(default_factory=lambda: array("i"))
    """In order; NO_BLOCK for the first `num_unseen_blocks`."""
    num_unseen_blocks: int = 0
    """Of `blocks`, those given back because they lie before the window of every token to come."""
    keys: list[Key] = field(default_factory=list)
    """Keys of the full blocks known so far; tokens never change, so they survive preemption."""
    num_published: int = 0
    """Of `blocks`, those already offered to the cache (or found there)."""
    takes_best_token: bool = field(init=False)
    """The next token is the one with the highest logit, and that is all there is to say about it."""

    def __post_init__(self) -> None:
        request = self.request
        self.takes_best_token = self.adjuster is None and not request.temperature and request.logprobs is None

    @property
    def num_pending_tokens(self) -> int:
        """Tokens still to run through the model before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed_tokens
