"""Writes the table of values into the chart's README: `python charts/readme.py [--check]`.

A value is described by the comment `# -- …` above it in values.yaml, as helm-docs reads it; its default is what stands
there.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "flashplane"
BEGIN, END = "<!-- values -->", "<!-- end of values -->"


def rows(text: str) -> Iterator[str]:
    """A row for each described value."""
    values: Any = yaml.safe_load(text)
    parents: list[tuple[int, str]] = []
    description = ""
    for line in text.splitlines():
        if found := re.fullmatch(r"\s*# -- (.*)", line):
            description = found[1]
        elif found := re.match(r"(\s*)([A-Za-z]+):", line):
            indent, key = len(found[1]), found[2]
            parents = [*(each for each in parents if each[0] < indent), (indent, key)]
            if description:
                path = [name for _, name in parents]
                yield f"| `{'.'.join(path)}` | `{json.dumps(_at(values, path))}` | {description} |"
                description = ""


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def main() -> None:
    """Write it, or end with 1 when it is not up to date."""
    readme = CHART / "README.md"
    text = readme.read_text()
    table = ["| value | default | what it is |", "|---|---|---|", *rows((CHART / "values.yaml").read_text())]
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    new = "\n".join([before + BEGIN, *table, END + after])
    if "--check" not in sys.argv[1:]:
        readme.write_text(new)
    elif new != text:
        sys.exit(f"{readme} is not up to date: run python charts/readme.py")


if __name__ == "__main__":
    main()
