"""What can be said of the images without building one: that their files agree, and that they follow their inputs."""

import re
import sys
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"
sys.path.insert(0, str(IMAGES))

import build  # noqa: E402
import image_builders  # noqa: E402
import inputs  # noqa: E402

ROLES = ("operator", "gateway", "engine")
LINE = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def dockerfile(role: str) -> str:
    return (IMAGES / f"{role}.Dockerfile").read_text()


def requirements(name: str) -> str:
    return (IMAGES / "requirements" / f"{name}.txt").read_text()


def test_the_files_share_every_step_up_to_the_wheel_so_that_it_is_built_once() -> None:
    shared = {
        text[text.index("FROM ${BASE} AS tools") : text.index("AS dependencies")] for text in map(dockerfile, ROLES)
    }
    assert len(shared) == 1


def test_the_engine_is_built_on_an_official_tritonserver_of_a_fixed_version_by_default() -> None:
    assert re.search(r"^ARG BASE=nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3$", dockerfile("engine"), re.MULTILINE)


@pytest.mark.parametrize("role", ROLES)
def test_images_run_as_nobody_and_say_what_they_are(role: str) -> None:
    last = dockerfile(role).rpartition("\nFROM ")[2]
    assert "\nUSER 65532:65532\n" in last
    assert "RUN" not in last, "the image is its base and one layer"
    for key in ("title", "description", "version", "revision", "licenses", "vendor", "base.name"):
        assert f"org.opencontainers.image.{key}=" in last


@pytest.mark.parametrize("name", [*ROLES, "build"])
def test_every_package_has_one_version_and_its_digests(name: str) -> None:
    text = requirements(name)
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) == len(LINE.findall(text))
    assert all("--hash=sha256:" in package for package in packages)


def test_no_image_holds_what_its_role_does_not_run() -> None:
    names = {role: {name for name, _ in LINE.findall(requirements(role))} for role in ROLES}
    assert not names["operator"] & {"numpy", "gguf", "safetensors", "tokenizers", "starlette", "grpcio", "torch"}
    assert not names["gateway"] & {"kopf", "kubernetes", "torch"}
    assert not names["engine"] & {"kopf", "kubernetes", "starlette", "torch", "triton"}


@pytest.mark.parametrize("role", ["gateway", "engine"])
def test_images_that_fetch_builtin_models_have_pip(role: str) -> None:
    assert "pip" in dict(LINE.findall(requirements(role)))


@pytest.mark.parametrize("role", ["gateway", "engine"])
def test_numpy_is_of_the_version_that_tritonserver_needs(role: str) -> None:
    assert dict(LINE.findall(requirements(role)))["numpy"].startswith("1.26.")


@pytest.mark.parametrize(
    ("role", "cpu", "name"),
    [
        ("operator", True, "r.example/flashplane/operator:V"),
        ("engine", True, "r.example/flashplane/engine:V-cpu"),
        ("engine", False, "r.example/flashplane/engine:V-tritonserver"),
    ],
)
def test_names_are_those_that_the_chart_expects(role: str, cpu: bool, name: str) -> None:
    wanted = name.replace("V", inputs.project_version())
    assert inputs.image_name(role, registry="r.example", cpu=cpu) == wanted


def test_another_base_or_builder_is_another_image() -> None:
    digests = {inputs.inputs_digest(role, other) for role in ROLES for other in ("debian", "registry")}
    assert len(digests) == 2 * len(ROLES)


def test_settings_of_the_environment_win_over_those_of_files() -> None:
    said = ":env:.cert='/a'\nglobal.cert='/b'\nglobal.index-url='https://mirror.example/simple'\n"
    assert image_builders.pip_settings(said) == {"cert": "/a", "index-url": "https://mirror.example/simple"}


def test_the_table_gives_sizes_and_where_archives_are() -> None:
    rows = [build.Row("a:1", 123_400_000, 61.25, Path("/x.tar")), build.Row("long/name:1", 9_000_000, 0, None)]
    assert build.table(rows).splitlines() == [
        "image        unpacked      time",
        "a:1            123 MB    61.2 s",
        "long/name:1      9 MB     0.0 s",
        "archive /x.tar",
    ]


def test_a_machine_without_any_builder_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert build.main([]) == 2
    assert "apt-get install buildah mmdebstrap" in capsys.readouterr().err
