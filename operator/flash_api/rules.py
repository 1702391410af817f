"""Cross-field rules, each said once for both of its judges: CEL for the API server, Python for `flash lint`.

A rule belongs to the model class that holds all the fields it speaks of and stands in its `cel_rules`. The message is
one template for both: `{self.source}` becomes the field's value.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)

_PLACEHOLDER: Final = re.compile(r"\{self\.([A-Za-z0-9.]+)\}")
_ASIDE: Final = re.compile(r" \(\{self\.[A-Za-z0-9.]+\}\)")


@dataclass(frozen=True)
class Rule:
    """A fact that must hold between fields."""

    name: str
    """The fact, as a name: Sha256NeedsOneFile."""
    field: str
    """The field to blame, from the class that holds the rule, in wire names: `kvCache.memory`."""
    cel: str
    """The fact in CEL over `self`."""
    holds: Callable[[Any], bool]
    """The same fact in Python over the parsed model."""
    rule: str
    """What must be so, as the rest of a sentence that begins with the field; with the values that matter."""
    remedy: str
    """What to write instead."""
    shows_value: bool = True
    """Whether the value of `field` helps to see the mistake."""

    @property
    def _template(self) -> str:
        value = f" ({{self.{self.field}}})" if self.shows_value else ""
        return f"{self.field}{value} {self.rule}; {self.remedy}"

    @property
    def message_expression(self) -> str:
        """The message as a CEL string expression. Its values must be strings: of `string(n)` the cost has no bound."""
        parts = _PLACEHOLDER.split(self._template)
        return " + ".join(f"self.{part}" if i % 2 else _cel_string(part) for i, part in enumerate(parts) if part)

    @property
    def message(self) -> str:
        """The message without values: what the API server falls back to."""
        without_asides = _ASIDE.sub("", self._template)
        return _PLACEHOLDER.sub(r"the given \1", without_asides)

    def filled(self, model: BaseModel) -> str:
        """What must be so, with the values of this model."""
        return _PLACEHOLDER.sub(lambda match: str(value_at(model, match[1])), self.rule)


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold somewhere."""

    field: str
    """Full path of the field to blame."""
    value: object
    rule: str
    remedy: str


def violations(model: BaseModel, path: str = "") -> Iterator[Violation]:
    """Every rule of this model and the models inside it that does not hold."""
    rules: tuple[Rule, ...] = getattr(type(model), "cel_rules", ())
    for rule in rules:
        if not rule.holds(model):
            field = ".".join(part for part in (path, rule.field) if part)
            value = value_at(model, rule.field) if rule.shows_value else None
            yield Violation(field, value, rule.filled(model), rule.remedy)
    for name, info in type(model).model_fields.items():
        inner = getattr(model, name)
        if isinstance(inner, BaseModel):
            yield from violations(inner, ".".join(part for part in (path, info.alias or name) if part))


def violations_of_parts(model: type[T], raw: Mapping[str, Any], path: str) -> Iterator[Violation]:
    """The rules of a raw value that is not valid as a whole, as far as they speak of parts that are."""
    try:
        yield from violations(strictly(model, raw), path)
    except ValidationError:
        for field, inner in models_inside(model).items():
            if isinstance(raw.get(field), dict):
                yield from violations_of_parts(inner, raw[field], f"{path}.{field}")


def strictly(model: type[T], raw: Mapping[str, Any]) -> T:
    """Raises pydantic's ValidationError for whatever the API server would refuse."""
    # Through JSON: strict there means JSON's own types, so "2" is no number, and enums are still written as text.
    return model.model_validate_json(json.dumps(raw), strict=True, by_alias=True, by_name=False)


def models_inside(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Wire names of the fields that hold one model, with its class."""
    found: dict[str, type[BaseModel]] = {}
    for name, info in model.model_fields.items():
        candidates = (info.annotation, *typing.get_args(info.annotation))
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is not None and typing.get_origin(info.annotation) is not list:
            found[info.alias or name] = inner
    return found


def value_at(model: BaseModel, path: str) -> object:
    """The value under a path of wire names."""
    value: object = model
    for part in path.split("."):
        if not isinstance(value, BaseModel):
            return None
        fields = type(value).model_fields
        value = next((getattr(value, name) for name, info in fields.items() if (info.alias or name) == part), None)
    return value.model_dump(mode="json", by_alias=True, exclude_unset=True) if isinstance(value, BaseModel) else value


def _cel_string(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
