"""Why a spec is refused: pure predicates, one named fact each."""

from flash_operator.checks.served import FACTS, refusal

__all__ = ["FACTS", "refusal"]
