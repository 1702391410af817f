"""The manifests that we show people are right."""

import re
from pathlib import Path

import pytest

from flash_api.manifest import parse_manifests

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_right(file: Path) -> None:
    found = parse_manifests(file.read_text())
    assert found.problems == ()
    assert found.deployments


def test_the_complete_example_shows_every_section() -> None:
    (file,) = (file for file in EXAMPLES if file.name == "complete.yaml")
    (deployment,) = parse_manifests(file.read_text()).deployments
    sections = {name for name in type(deployment.spec).model_fields if name != "suspend"}
    assert deployment.spec.model_fields_set >= sections


def test_a_how_to_names_manifests_that_are_there() -> None:
    root = Path(__file__).parents[2]
    for page in (root / "docs" / "how-to").glob("*.md"):
        named = set(re.findall(r"examples/[a-z-]+\.yaml", page.read_text()))
        assert named
        assert all((root / name).is_file() for name in named), page
