"""Why a spec is refused: pure predicates, one named fact each."""

from flash_operator.checks.draft_tokenizer import DraftSharesTokenizer
from flash_operator.checks.served import FACTS, refusal
from flash_operator.checks.served_model import model_refusal

__all__ = ["FACTS", "DraftSharesTokenizer", "model_refusal", "refusal"]
