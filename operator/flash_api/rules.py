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
from typing import Annotated, Any, Final, TypeVar

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
    holds: Callable[..., bool]
    """The same fact in Python over the parsed model; for a rule of change, over the model and the one before."""
    rule: str
    """What must be so, as the rest of a sentence that begins with the field; with the values that matter."""
    remedy: str
    """What to write instead."""
    shows_value: bool = True
    """Whether the value of `field` helps to see the mistake."""
    of_change: bool = False
    """Whether the rule also speaks of `oldSelf`: it is judged when an object that exists is changed."""

    @property
    def _template(self) -> str:
        value = f" ({{self.{self.field}}})" if self.shows_value else ""
        return f"{self.field}{value} {self.rule}; {self.remedy}"

    @property
    def message_expression(self) -> str:
        """The message as a CEL string expression. Of `format` the cost is bounded, whatever the values are."""
        parts = _PLACEHOLDER.split(self._template)
        if len(parts) == 1:
            return cel_string(parts[0])
        text = "%s".join(part.replace("%", "%%") for part in parts[::2])
        return f"{cel_string(text)}.format([{', '.join(f'self.{value}' for value in parts[1::2])}])"

    @property
    def message(self) -> str:
        """The message without values: what the API server falls back to."""
        without_asides = _ASIDE.sub("", self._template)
        return _PLACEHOLDER.sub(r"<\1>", without_asides)

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


def text_validation(cel: str, meaning: str) -> dict[str, str]:
    """The entry of a CRD for a rule about one text, which says the text: the API server itself says only its type."""
    said = cel_string(f'"%s" {meaning.replace("%", "%%")}')
    return {
        "rule": cel,
        "message": meaning,
        "messageExpression": f"{said}.format([self])",
        "reason": "FieldValueInvalid",
    }


def rules_of(model: type[BaseModel] | None) -> tuple[Rule, ...]:
    """The rules that a model class itself holds."""
    found: tuple[Rule, ...] = getattr(model, "cel_rules", ())
    return found


def violations(model: BaseModel, path: str = "") -> Iterator[Violation]:
    """Every rule of this model and the models inside it that does not hold."""
    for rule in rules_of(type(model)):
        if not rule.of_change and not rule.holds(model):
            yield _violation(rule, model, path)
    for name, info in type(model).model_fields.items():
        inner, wire = getattr(model, name), _joined(path, info.alias or name)
        if isinstance(inner, BaseModel):
            yield from violations(inner, wire)
        elif isinstance(inner, list):
            for index, item in enumerate(inner):
                if isinstance(item, BaseModel):
                    yield from violations(item, f"{wire}[{index}]")


def violations_of_change(before: BaseModel, after: BaseModel, path: str = "") -> Iterator[Violation]:
    """Every rule about what may become of `before` that `after`, of the same class, does not keep."""
    for rule in rules_of(type(after)):
        if rule.of_change and not rule.holds(after, before):
            yield _violation(rule, after, path)
    for name, info in type(after).model_fields.items():
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from violations_of_change(old, new, _joined(path, info.alias or name))


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
    return _inside(model, in_list=False)


def models_in_lists(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Wire names of the fields that hold a list of models, with their class."""
    return _inside(model, in_list=True)


def value_at(model: BaseModel, path: str) -> object:
    """The value under a path of wire names."""
    value: object = model
    for part in path.split("."):
        if not isinstance(value, BaseModel):
            return None
        fields = type(value).model_fields
        value = next((getattr(value, name) for name, info in fields.items() if (info.alias or name) == part), None)
    return value.model_dump(mode="json", by_alias=True, exclude_unset=True) if isinstance(value, BaseModel) else value


def _inside(model: type[BaseModel], *, in_list: bool) -> dict[str, type[BaseModel]]:
    found = {
        info.alias or name: inner
        for name, info in model.model_fields.items()
        for inner, listed in _classes(info.annotation, in_list=False)
        if listed == in_list
    }
    return found


def _classes(annotation: Any, *, in_list: bool) -> Iterator[tuple[type[BaseModel], bool]]:
    """The model classes that an annotation names, each with whether a list holds it."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation, in_list
        return
    arguments = typing.get_args(annotation)
    of = arguments[:1] if typing.get_origin(annotation) is Annotated else arguments
    for argument in of:
        yield from _classes(argument, in_list=in_list or typing.get_origin(annotation) is list)


def _violation(rule: Rule, model: BaseModel, path: str) -> Violation:
    value = value_at(model, rule.field) if rule.shows_value else None
    return Violation(_joined(path, rule.field), value, rule.filled(model), rule.remedy)


def _joined(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def cel_string(text: str) -> str:
    """The text as a CEL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
