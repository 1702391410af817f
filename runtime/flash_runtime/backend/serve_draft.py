"""The console script `flash-draft`: a small model whose guesses engines verify. Otherwise as `flash-engine`."""

from __future__ import annotations

import sys
from typing import Final

from flash_api.config.draft import DraftConfig
from flash_api.names import FILE_DRAFT_CONFIG
from flash_runtime.backend.repository import draft_repository
from flash_runtime.backend.serve import Program, run

DRAFT: Final = Program(
    name="flash-draft",
    what="draft",
    description="Propose tokens to engines with one small packed model, over a gRPC stream with each of them.",
    grpc_help="the engines' streams",
    config=DraftConfig,
    config_file=FILE_DRAFT_CONFIG,
    repository=draft_repository,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a draft until SIGTERM. Exit status 2 = it could not start as asked."""
    return run(DRAFT, arguments)


if __name__ == "__main__":
    sys.exit(main())
