"""`flash plan`, `flash lint` and `flash crds` as their users call them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from builders import a_manifest, a_model_manifest
from typer.testing import CliRunner

from flash_operator.cli import app

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "examples" / "quickstart.yaml")
runner = CliRunner()


@pytest.fixture
def bad(tmp_path: Path) -> str:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(a_manifest(engine={"replcas": 2}, variant="lite")))
    return str(file)


def test_a_right_manifest_has_no_findings() -> None:
    result = runner.invoke(app, ["lint", "-f", QUICKSTART])
    assert (result.exit_code, result.stderr.strip()) == (0, "1 FlashDeployment: no findings")


def test_findings_are_listed_with_place_field_value_rule_and_remedy(bad: str) -> None:
    result = runner.invoke(app, ["lint", "-f", bad])
    assert result.exit_code == 1
    assert f'{bad}:11: spec.variant ("lite") must be one of Cloud, Lite, Nano\n    did you mean Lite?' in result.stderr
    assert "spec.engine.replcas (2) is not a field that exists\n    did you mean replicas?" in result.stderr


def test_findings_are_data_for_tools(bad: str) -> None:
    found = json.loads(runner.invoke(app, ["lint", "-f", bad, "-o", "json"]).stdout)
    assert {problem["field"] for problem in found} == {"spec.variant", "spec.engine.replcas"}
    assert set(found[0]) == {"file", "document", "line", "column", "field", "value", "rule", "remedy"}


@pytest.mark.parametrize("variant", ["Cloud", "Lite", "Nano"])
def test_every_variant_is_served(variant: str) -> None:
    result = runner.invoke(app, ["lint", "-f", "-"], input=yaml.safe_dump(a_manifest(variant=variant)))
    assert (result.exit_code, result.stderr) == (0, "1 FlashDeployment: no findings\n")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"model": {"source": "s3://a/b?endpoint=http://minio:9000"}},
            "spec.model.source must be one file for source s3",
        ),
        ({"model": {"source": "s3://a/b.gguf?endpoint=http://minio:9000"}}, "spec.model.sha256 must be set for source"),
        ({"model": {"source": "http://host/m.gguf"}}, "spec.model.sha256 must be set for source http://host/m.gguf"),
        (
            {
                "model": {
                    "source": "http://host/m.gguf",
                    "sha256": "ab" * 32,
                    "credentialsSecretRef": {"name": "token", "key": "token"},
                }
            },
            "spec.model.credentialsSecretRef must be unset for source http://host/m.gguf",
        ),
        ({"engine": {"autoscaling": {"maxReplicas": 4, "scaleToZeroAfterSeconds": 900}}}, "Remove it"),
    ],
)
@pytest.mark.parametrize("command", ["lint", "plan"])
def test_what_this_release_cannot_serve_is_a_finding(command: str, spec: dict[str, object], says: str) -> None:
    result = runner.invoke(app, [command, "-f", "-"], input=yaml.safe_dump(a_manifest(**spec)))
    assert result.exit_code == 1
    assert "is not served by this release" in result.stderr
    assert says in result.stderr


@pytest.mark.parametrize("command", ["lint", "plan"])
def test_a_model_that_this_release_cannot_pull_is_a_finding(command: str) -> None:
    manifest = a_model_manifest(source="http://host/m.gguf")
    result = runner.invoke(app, [command, "-f", "-"], input=yaml.safe_dump(manifest))
    assert result.exit_code == 1
    assert "olmoe: spec.sha256 must be set for source http://host/m.gguf" in result.stderr


def test_the_plan_of_a_model_is_its_volume_and_its_jobs() -> None:
    manifests = [a_model_manifest(variants=["Lite", "Nano"]), a_manifest(model={"modelRef": {"name": "olmoe"}})]
    result = runner.invoke(app, ["plan", "-f", "-", "--name", "olmoe"], input=yaml.safe_dump_all(manifests))
    assert result.exit_code == 0, result.stderr
    kinds = [planned["kind"] for planned in yaml.safe_load_all(result.stdout)]
    assert kinds == ["ServiceAccount", "NetworkPolicy", "PersistentVolumeClaim", "Job", "Job"]


def test_the_plan_of_a_deployment_knows_the_model_beside_it() -> None:
    shared = a_model_manifest(cache={"accessMode": "ReadWriteMany"})
    user = a_manifest(model={"modelRef": {"name": "olmoe"}})
    plans = []
    for manifests in ([user], [user, shared]):
        result = runner.invoke(app, ["plan", "-f", "-", "--name", "chat"], input=yaml.safe_dump_all(manifests))
        plans.append(list(yaml.safe_load_all(result.stdout))[-1]["spec"]["template"]["spec"])
    assert ["affinity" in pod for pod in plans] == [True, False]


def test_the_plan_is_yaml_and_nothing_else() -> None:
    result = runner.invoke(app, ["plan", "-f", QUICKSTART, "-n", "chat"])
    assert result.exit_code == 0
    found = list(yaml.safe_load_all(result.stdout))
    assert len(found) == 10
    assert {planned["metadata"]["namespace"] for planned in found} == {"chat"}


@pytest.mark.parametrize("command", ["lint", "plan"])
@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), (b"\xff\xfe", "is not UTF-8 text")])
def test_a_file_that_is_no_text_is_told_plainly(command: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_bytes(content)
    result = runner.invoke(app, [command, "-f", str(file)])
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_a_file_without_an_end_is_read_only_so_far() -> None:
    result = runner.invoke(app, ["lint", "-f", "/dev/zero"])
    assert result.exit_code == 1
    assert "larger than 1048576 characters" in result.stderr


def test_a_plan_of_a_name_that_is_not_there_says_so() -> None:
    result = runner.invoke(app, ["plan", "-f", QUICKSTART, "--name", "nobody"])
    assert result.exit_code == 1
    assert "no FlashDeployment or FlashModel called nobody" in result.stderr


def test_an_outdated_crd_fails_the_check(tmp_path: Path) -> None:
    file = str(tmp_path / "crds" / "fd.yaml")
    assert runner.invoke(app, ["crds", "--check", "-f", file]).exit_code == 1
    assert runner.invoke(app, ["crds", "-f", file]).exit_code == 0
    assert runner.invoke(app, ["crds", "--check", "-f", file]).exit_code == 0
    Path(file).write_text(Path(file).read_text().replace("1000", "1001"))
    result = runner.invoke(app, ["crds", "--check", "-f", file])
    assert result.exit_code == 1
    assert "is out of date" in result.stderr


@pytest.mark.parametrize("what", [(), ("--docs",)])
def test_what_is_generated_is_committed(what: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert runner.invoke(app, ["crds", *what, "--check"]).exit_code == 0


def test_each_kind_gets_a_file_of_its_own(tmp_path: Path) -> None:
    assert runner.invoke(app, ["crds", "-f", str(tmp_path)]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "flashplane.dev_flashdeployments.yaml",
        "flashplane.dev_flashmodels.yaml",
    }


def test_all_kinds_can_be_piped_to_kubectl() -> None:
    found = list(yaml.safe_load_all(runner.invoke(app, ["crds", "-f", "-"]).stdout))
    assert [crd["spec"]["names"]["kind"] for crd in found] == ["FlashDeployment", "FlashModel"]


@pytest.mark.parametrize("command", ["lint", "plan", "crds"])
def test_help_teaches_by_example(command: str) -> None:
    assert "Example:" in runner.invoke(app, [command, "--help"]).stdout


def test_planning_loads_no_cluster_client() -> None:
    heavy = "{'kopf', 'kubernetes', 'aiohttp', 'prometheus_client'}"
    program = f"""
import sys
from flash_operator.cli import app
app(["plan", "-f", {QUICKSTART!r}], standalone_mode=False)
assert not {heavy} & sys.modules.keys(), {heavy} & sys.modules.keys()
"""
    environment = {"PYTHONPATH": str(ROOT / "operator"), "PATH": ""}
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, env=environment)


def test_the_operator_explains_itself_without_loading_its_clients() -> None:
    from flash_operator.__main__ import app as operator_app

    result = runner.invoke(operator_app, ["--help"])
    assert result.exit_code == 0
    assert "Lease" in result.stdout


def test_an_operator_without_a_cluster_says_so_and_ends(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT / "operator"), "PATH": "", "HOME": str(tmp_path)}
    missing = ["--kubeconfig", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-m", "flash_operator", *missing], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr
