"""Fixtures around the operator's process: kubectl in the test's namespace, and one operator that serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from operator_process import Kubectl, OperatorProcess


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Kubectl:
    return Kubectl(control_plane, namespace)


@pytest.fixture
def operator(operator_account: Path, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(operator_account, tmp_path / "operator.log", namespace=namespace) as process:
        process.wait_until_leading()
        yield process
