"""The chart's tests need Helm and promtool, and nothing else."""

import os
from pathlib import Path

import pytest
from helm_plugin import helm
from hermetic_errors import BinariesUnavailable
from hermetic_promtool import provide_promtool

__all__ = ["helm", "promtool"]


@pytest.fixture(scope="session")
def promtool() -> Path:
    try:
        return provide_promtool()
    except BinariesUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
