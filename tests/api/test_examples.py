"""The manifests that we show people are right."""

import re
from pathlib import Path

import pytest
import yaml
from builders import a_manifest

from flash_api.manifest import parse_manifests
from flash_operator.checks import refusal

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
PARTS = [
    (file.name, part)
    for file in sorted((REPOSITORY / "docs" / "how-to").glob("*.md"))
    for part in re.findall(r"^```yaml\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
]
"""What the how-tos say to write below `spec`."""


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


@pytest.mark.parametrize(("file", "part"), PARTS, ids=[file for file, _ in PARTS])
def test_what_a_how_to_says_to_write_is_right_and_served(file: str, part: str) -> None:
    found = parse_manifests(yaml.safe_dump(a_manifest(**yaml.safe_load(part))))
    assert found.problems == ()
    assert [refusal(deployment.spec) for deployment in found.deployments] == [None]


def test_a_how_to_names_manifests_that_are_there() -> None:
    root = Path(__file__).parents[2]
    for page in (root / "docs" / "how-to").glob("*.md"):
        named = set(re.findall(r"examples/[a-z-]+\.yaml", page.read_text()))
        assert named
        assert all((root / name).is_file() for name in named), page
