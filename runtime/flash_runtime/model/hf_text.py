"""Text assets of a Hugging Face folder: tokenizer.json, chat template, special tokens, licence. Knows no tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer

from flash_runtime.model.checkpoint import About, TextAssets
from flash_runtime.model.errors import CheckpointError


def read_text_assets(path: Path, *, vocab_size: int) -> TextAssets:
    """Read a folder's tokenizer and chat template; raises CheckpointError when no end-of-text token is known."""
    tokenizer_path = path / "tokenizer.json"
    try:
        tokenizer_json = tokenizer_path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{tokenizer_path}: {error.strerror}; slow tokenizers are not read") from error
    tokenizer = load_tokenizer(tokenizer_json, where=str(tokenizer_path))
    settings = _read_json(path / "tokenizer_config.json")
    bos, eos = _token_text(settings.get("bos_token")), _token_text(settings.get("eos_token"))
    eos_ids = _eos_ids(path)
    if not eos_ids and eos is not None and (id_ := tokenizer.token_to_id(eos)) is not None:
        eos_ids = (id_,)
    if not eos_ids or not all(0 <= id_ < vocab_size for id_ in eos_ids):
        raise CheckpointError(f"{path}: no valid eos_token_id in generation_config.json, config.json or the tokenizer")
    return TextAssets(
        tokenizer_json=tokenizer_json,
        chat_template=_chat_template(path, settings),
        bos_token=bos,
        eos_token=eos or tokenizer.id_to_token(eos_ids[0]),
        eos_token_ids=eos_ids,
        add_bos=bos is not None and _starts_with(tokenizer, bos),
        special_tokens=special_tokens(tokenizer),
    )


def load_tokenizer(tokenizer_json: bytes, *, where: str) -> Tokenizer:
    """Parse tokenizer.json; raises CheckpointError naming `where`."""
    try:
        return Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:  # the library raises bare Exception for any malformed document
        raise CheckpointError(f"{where}: not a tokenizer ({error})") from error


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the tokens that text never produces by itself, by their text."""
    return {token.content: id_ for id_, token in sorted(tokenizer.get_added_tokens_decoder().items()) if token.special}


def read_about(path: Path) -> About:
    """Name and licence from the model card's front matter; the folder's name where it says nothing."""
    card = _front_matter(path / "README.md")
    name = str(card.get("model_name") or path.resolve().name)
    license_ = str(card.get("license") or "unknown")
    return About(name=name, license=license_, attribution=str(card.get("attribution") or name))


def _starts_with(tokenizer: Tokenizer, token: str) -> bool:
    """Whether the tokenizer puts this token before a text (its post-processor decides, whatever the config says)."""
    tokens: list[str] = tokenizer.encode("a").tokens
    return tokens[:1] == [token]


def _chat_template(path: Path, settings: dict[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name; "default" is the one for plain chat
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _eos_ids(path: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        value = _read_json(path / name).get("eos_token_id")
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value and all(isinstance(id_, int) for id_ in value):
            return tuple(value)
    return ()


def _token_text(value: Any) -> str | None:
    """A token is written as its text, or as an object with it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: holds a {type(document).__name__}, not an object")
    return document


def _front_matter(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        card = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:  # a broken card costs the licence line, not the model
        return {}
    return card if isinstance(card, dict) else {}
