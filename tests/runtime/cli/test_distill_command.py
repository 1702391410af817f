"""`flash distill` on a toy teacher, as far as it goes without torch; and recipes that cannot be followed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from flash_program import Flash
from tiny_gguf import write_gguf

from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.derived import DerivedCheckpoint
from flash_runtime.training.config import FamilyRecipe, RecipeError, read_recipe

ROOT = Path(__file__).parents[3]
CARVE = {"shared_width": 64, "experts": 6, "expert_width": 16, "top_k": 2, "dense_layers": [0], "tokens": 600}


def recipe(folder: Path, **changes: Any) -> Path:
    """A toy teacher, some text and a recipe that carves it; None takes a field out."""
    write_gguf(folder / "teacher.gguf", "llama", shape={"tie_word_embeddings": True})
    lines = [f"Passage number {index} about the sea, the sky and the number {index * 7}." for index in range(60)]
    (folder / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {
        "name": "toy",
        "teacher": str(folder / "teacher.gguf"),
        "output": "made",
        "text": {"files": ["text.jsonl"]},
        "carve": CARVE,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in fields.items() if value is not None}))
    return path


def test_a_recipe_carves_a_teacher_into_a_model_that_packs(flash: Flash, tmp_path: Path) -> None:
    result = flash("distill", recipe(tmp_path))

    assert result.exit_code == 0, result.output
    student = open_checkpoint(tmp_path / "made" / "student")
    assert isinstance(student, DerivedCheckpoint)
    assert student.facts.trained_tokens == 0
    assert student.facts.provenance["seed"] == "5"
    assert len(student.facts.provenance["text text.jsonl"]) == 64
    assert flash("pack", tmp_path / "made" / "student", "-o", "toy.flash").exit_code == 0
    told = json.loads(flash("info", "toy.flash", "--json").stdout)["model"]
    assert (told["name"], told["experts"], told["active_experts"]) == ("toy", 6, 2)
    assert "not trained" in told["training"]


def test_what_an_earlier_run_left_damaged_is_refused(flash: Flash, tmp_path: Path) -> None:
    path = recipe(tmp_path)
    assert flash("distill", path).exit_code == 0
    left = tmp_path / "made" / "carved.npz"
    left.write_bytes(left.read_bytes()[:-300])

    result = flash("distill", path)

    assert result.exit_code == 3
    assert "carved.npz: not a readable file of arrays" in result.stderr
    assert "delete it to have its stage done again" in result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"carve": {**CARVE, "top_k": 7}}, "top_k (7) must be from 1 to the 6 experts"),
        ({"carve": {**CARVE, "shared_width": 65}}, "the teacher's FFN has 160: they must be equal"),
        ({"carve": {**CARVE, "experts": 1}}, "carve.experts: Input should be greater than or equal to 2, found 1"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"carve": None, "distil": {"steps": 1}}, "distil needs carve"),
        ({"finish": {"steps": 1}}, "finish needs distil: it trains on what distilling reached"),
        ({"distil": {"steps": 1}, "finish": {"steps": 1, "formats": ["int3"]}}, "finish.formats.0: Input should be"),
        ({"text": {"files": ["nothing.jsonl"]}}, "nothing.jsonl: not a file of JSON lines"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_with_the_reason(
    flash: Flash, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    result = flash("distill", recipe(tmp_path, **changes))

    assert result.exit_code == 2
    assert said in result.stderr


def test_the_recipe_of_flash_tiny_is_one() -> None:
    assert read_recipe(ROOT / "recipes" / "flash-tiny" / "recipe.yaml").name == "flash-tiny"


def test_a_missing_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(tmp_path / "none.yaml")


def test_every_field_of_a_recipe_is_described() -> None:
    def fields(model: Any) -> list[tuple[str, str | None]]:
        found = []
        for name, field in model.model_fields.items():
            found.append((f"{model.__name__}.{name}", field.description))
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                found += fields(part) if hasattr(part, "model_fields") else []
        return found

    assert [name for name, description in fields(FamilyRecipe) if not description] == []


def test_the_recipe_in_the_how_to_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "make-your-own-flash.md").read_text()
    (shown,) = re.findall(r"^```yml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "recipe.yml").write_text(shown)

    assert read_recipe(tmp_path / "recipe.yml").name == "my-flash"
