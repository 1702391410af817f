"""What a packed model says about text: tokenizer, chat template, special tokens. Knows no weights.

Errors: `TextError`, which names the field, its value, the rule and what to do.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flash_runtime.packed import PackedFile


class TextError(Exception):
    """A packed model whose text part cannot be used."""


class TextHeader(BaseModel):
    """`header["text"]` of a packed file. Unknown fields are allowed: the file may be newer than this release."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    chat_template: str = ""
    """Jinja source; empty = the model has no chat form."""
    bos_token: str | None = None
    eos_token: str | None = None
    eos_token_ids: Annotated[tuple[int, ...], Field(min_length=1)]
    """Every token that ends an answer."""
    add_bos: bool = False
    """Raw prompts start with `bos_token`; chat templates write their own."""
    special_tokens: dict[str, Any] = Field(default_factory=dict)


class TextAssets(BaseModel):
    """All that this package needs of a model."""

    model_config = ConfigDict(frozen=True)

    tokenizer_json: bytes
    header: TextHeader
    max_context_tokens: int | None = None
    """The model's own limit, where the file states it."""
    fingerprint: str = ""
    """Tells packed models apart: a digest of the header, which names the source and every layer."""

    @classmethod
    def from_packed(cls, path: Path) -> TextAssets:
        """Read the text part of `model.flash`. Raises PackedError or TextError."""
        packed = PackedFile.open(path)
        try:
            header = TextHeader.model_validate(packed.header.get("text"))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(("text", *(str(part) for part in first["loc"])))
            raise TextError(f"{path}: header {field}: {first['msg']}; pull the model again (`flash-pull`)") from error
        model = packed.header.get("model") or {}
        return cls(
            tokenizer_json=packed.text_bytes("tokenizer.json"),
            header=header,
            max_context_tokens=model.get("max_context_tokens"),
            fingerprint=hashlib.sha256(json.dumps(packed.header, sort_keys=True).encode()).hexdigest(),
        )
