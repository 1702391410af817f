"""A recipe for a Flash family: the YAML file that `flash distill` takes.

Errors: `RecipeError`, which names the field, its value and the rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flash_runtime.model.errors import RequestError

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class RecipeError(RequestError):
    """A recipe that cannot be followed."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Part):
    """What the models read. Files are JSON lines, one string each."""

    files: list[Path] = Field(min_length=1, description="Texts to train on.")
    prompts: Path | None = Field(
        None, description="Questions that the teacher answers: a draft must foresee what is served. Unset = none."
    )
    window_tokens: Annotated[int, Field(ge=16, le=2048)] = Field(128, description="Tokens of one piece of text.")
    answer_tokens: Annotated[int, Field(ge=32, le=2048)] = Field(
        224, description="Tokens of a question and its answer together; longer answers are cut."
    )
    read_tokens: Count = Field(100_000, description="Tokens of the files that the teacher reads for the draft.")
    max_prompts: Count = Field(1000, description="Questions that it answers.")


class Carve(_Part):
    """How the teacher's FFNs are cut."""

    shared_width: Count = Field(description="Inner features that every token passes.")
    experts: Annotated[int, Field(ge=2, le=256)] = Field(description="Routed experts of a layer.")
    expert_width: Count = Field(description="Inner features of one; all together are the teacher's FFN.")
    top_k: Count = Field(description="Routed experts of each token.")
    dense_layers: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, description="Layers that stay as they are: the first and the last are worth it."
    )
    tokens: Count = Field(16_000, description="Tokens of text that the carving looks at.")


class Distil(_Part):
    """How the student is taught. Its FFNs and routers are trained; all else stays the teacher's."""

    steps: Count = Field(description="Steps of training; a finished run goes on when there are more.")
    batch: Count = Field(8, description="Windows of each step.")
    learning_rate: Rate = Field(1e-4, description="AdamW's, after a short rise and before the fall at the end.")
    whole: bool = Field(
        False, description="Train gate and up too, not only down and the router: better, three times as much to store."
    )
    answers_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of the teacher's answers in each step; the rest is text."
    )
    logits: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of the loss on the predictions.")
    hidden: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of the loss on the hidden states.")
    attention: Annotated[float, Field(ge=0)] = Field(0.5, description="Weight of the loss on attention's outputs.")
    balance: Annotated[float, Field(ge=0)] = Field(0.01, description="Weight of even use of the experts.")


class Finish(_Part):
    """How the student gets used to the number formats it is served in. Trains what distilling trains."""

    steps: Count = Field(description="Steps of training; a finished run goes on when there are more.")
    formats: tuple[Literal["int8", "int4"], ...] = Field(
        ("int8", "int4"),
        min_length=1,
        description="Weights that it practises, in turn: int8 (W8A8, the variant lite) and int4 (W4A8, nano).",
    )
    batch: Count = Field(8, description="Windows of each step.")
    learning_rate: Rate = Field(3e-5, description="AdamW's, after a short rise and before the fall at the end.")
    answers_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of the teacher's answers in each step; the rest is text."
    )
    balance: Annotated[float, Field(ge=0)] = Field(0.01, description="Weight of even use of the experts.")


class Draft(_Part):
    """A model of a few of the teacher's layers that foresees its tokens."""

    layers: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description="The teacher's layers that it starts from."
    )
    steps: Count = Field(description="Steps of training; a finished run goes on when there are more.")
    batch: Count = Field(8, description="Sequences of each step.")
    learning_rate: Rate = Field(1e-3, description="AdamW's, after a short rise and before the fall at the end.")
    answers_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.7, description="Share of the teacher's answers in each step; the rest is text."
    )


class FamilyRecipe(_Part):
    """What to make from which teacher."""

    name: Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[a-z0-9][a-z0-9.-]*$")] = Field(
        description="The family's name; the draft is called NAME-draft."
    )
    teacher: str = Field(
        description="A GGUF file's path or URI, such as builtin://smollm2-135m-instruct: a dense Llama."
    )
    output: Path = Field(description="Folder for checkpoints and results; a second run goes on there.")
    seed: Annotated[int, Field(ge=0)] = Field(5, description="Of everything random.")
    threads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Unset = as many as the CPU has cores."
    )
    text: Text = Field(description="What the models read.")
    carve: Carve | None = Field(None, description="Unset = no student is made.")
    distil: Distil | None = Field(None, description="Unset = the student stays as it was carved.")
    finish: Finish | None = Field(None, description="Unset = the student is not trained for its number formats.")
    draft: Draft | None = Field(None, description="Unset = no draft is made.")


def read_recipe(path: Path) -> FamilyRecipe:
    """Parse one file; paths in it are relative to its folder. Raises RecipeError."""
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = FamilyRecipe.model_validate(document)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise RecipeError(f"{path}: {where}: {first['msg']}, found {first['input']!r:.80}") from error
    if found.distil is not None and found.carve is None:
        raise RecipeError(f"{path}: distil needs carve: a student is carved before it is taught")
    if found.finish is not None and found.distil is None:
        raise RecipeError(f"{path}: finish needs distil: it trains on what distilling reached")
    here = path.parent
    text = found.text.model_copy(
        update={
            "files": [here / file for file in found.text.files],
            "prompts": None if found.text.prompts is None else here / found.text.prompts,
        }
    )
    teacher = found.teacher if "://" in found.teacher else str(here.absolute() / found.teacher)
    return found.model_copy(update={"output": here / found.output, "text": text, "teacher": teacher})


def describe(model: type[BaseModel], *, indent: int = 0) -> str:
    """Every field of a recipe with its meaning, in the form of a YAML file."""
    lines = []
    for name, field in model.model_fields.items():
        lines.append(
            f"{' ' * indent}{name}:  # {field.description}" + ("" if not field.is_required() else " Required.")
        )
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if _is_part(part)]
        lines += [describe(part, indent=indent + 2) for part in parts]
    return "\n".join(lines)


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, _Part)
