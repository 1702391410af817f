"""Fixtures with real Helm: the chart rendered, and the operator's account as the chart makes it."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from control_plane import ControlPlane
from hermetic_errors import BinariesUnavailable
from hermetic_helm import provide_helm

CHART = Path(__file__).parents[2] / "charts" / "flashplane"
RELEASE = "flashplane"
NAMESPACE = "flashplane-system"


class Helm:
    """Helm with settings of its own, on no cluster unless a kubeconfig is given."""

    def __init__(self, program: Path, home: Path, kubeconfig: Path | None = None) -> None:
        self._program = program
        self._home = home
        self._kubeconfig = kubeconfig

    def on(self, kubeconfig: Path) -> "Helm":
        """The same program on a cluster."""
        return Helm(self._program, self._home, kubeconfig)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Helm's answer, whatever it is."""
        folders = {f"HELM_{kind}_HOME": str(self._home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        kubeconfig = str(self._kubeconfig) if self._kubeconfig else str(self._home / "none")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._home), **folders, "KUBECONFIG": kubeconfig}
        command = [str(self._program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    def __call__(self, *arguments: str) -> str:
        """Its standard output; fails with what it said."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def template(self, *options: str, only: Sequence[str] = ()) -> str:
        """The chart's manifests, all or those of some templates."""
        shown = [f"--show-only=templates/{name}.yaml" for name in only]
        return self("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *shown, *options)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    try:
        program = provide_helm()
    except BinariesUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return Helm(program, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def operator_rbac(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the operator's namespace, its account and all that the chart may grant it, cluster-wide."""
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    path = tmp_path_factory.mktemp("chart") / "rbac.yaml"
    path.write_text(f"{namespace}{helm.template('--set', 'externalMetrics.enabled=true', only=['rbac'])}")
    return path


@pytest.fixture(scope="session")
def operator_account(control_plane: ControlPlane, operator_rbac: Path) -> Path:
    """A kubeconfig of the operator's account, as the chart installs it."""
    control_plane.kubectl("apply", "-f", str(operator_rbac))
    return control_plane.kubeconfig_for_service_account(NAMESPACE, f"{RELEASE}-operator")
