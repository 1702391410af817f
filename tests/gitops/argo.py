"""Argo CD's health checks, executed as Argo CD does: one global `obj`, the script's result is the health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa

CUSTOMIZATIONS = Path(__file__).parents[2] / "examples" / "gitops" / "argocd" / "resource_customizations"
HEALTHS = frozenset({"Healthy", "Progressing", "Degraded", "Suspended"})


def script(kind: str) -> str:
    """The text of a kind's health check."""
    return (CUSTOMIZATIONS / "flashplane.dev" / kind / "health.lua").read_text()


class HealthCheck:
    """One kind's script in a Lua that it cannot leave: no files, no processes, no Python."""

    def __init__(self, kind: str) -> None:
        self._lua = lupa.LuaRuntime(register_eval=False, register_builtins=False, unpack_returned_tuples=True)
        for name in ("os", "io", "require", "dofile", "loadfile", "package", "python"):
            self._lua.globals()[name] = None
        self._script = script(kind)

    def __call__(self, resource: dict[str, Any]) -> tuple[str, str]:
        """Health and message of one object."""
        self._lua.globals().obj = self._lua.table_from(resource, recursive=True)
        result = self._lua.execute(self._script)
        return str(result["status"]), str(result["message"])
