"""Manifests as YAML that people can read: keys in the order of the plan, files inside ConfigMaps as blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

WIDTH: Final = 120


class _Dumper(yaml.SafeDumper):
    """A SafeDumper without anchors and with block scalars."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        # Lists one step in, as Kubernetes' own examples write them.
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(manifests: Iterable[Mapping[str, Any]]) -> str:
    """One document each, separated by `---`. Equal manifests give equal text."""
    return "---\n".join(
        yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)
        for manifest in manifests
    )
