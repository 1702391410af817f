"""Starting an engine with something wrong: one line that names it and what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flash_runtime.backend.rundir import run_dir, sweep
from flash_runtime.backend.serve import main


def write_config(folder: Path, **fields: object) -> Path:
    path = folder / "engine.json"
    config = {"served_model_name": "m", "source": "builtin://x", "model_dir": str(folder), **fields}
    path.write_text(json.dumps(config))
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_missing_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--config", str(tmp_path / "none.json"))
    assert "none.json: No such file or directory; name the engine's config with --config" in said


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"max_batch_tokens": 1}, "max_batch_tokens: Input should be greater than or equal to 16"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_bad_config_names_file_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, object], problem: str
) -> None:
    path = write_config(tmp_path, **fields)
    assert refusal(capsys, "--config", str(path)) == f"flash-engine: {path}: {problem}"


def test_a_config_that_is_no_json_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "engine.json").write_text("{")
    assert "Invalid JSON" in refusal(capsys, "--config", str(tmp_path / "engine.json"))


def test_a_missing_packed_model_names_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "--config", str(write_config(tmp_path)))
    assert f"{tmp_path}/model.flash does not exist" in said
    assert f"flash-pull --source builtin://x --variant Lite --to {tmp_path}" in said


def test_a_port_in_use_is_named_with_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.flash").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refusal(
            capsys, "--config", str(write_config(tmp_path)), "--address", "127.0.0.1", "--grpc-port", port,
            "--http-port", "0", "--metrics-port", "0",
        )  # fmt: skip
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --grpc-port" in said


def test_a_missing_tritonserver_is_named_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.flash").touch()
    monkeypatch.setenv("FLASHPLANE_TRITONSERVER", "/nowhere")
    ports = [argument for name in ("http", "grpc", "metrics") for argument in (f"--{name}-port", "0")]
    said = refusal(capsys, "--config", str(write_config(tmp_path)), "--address", "127.0.0.1", *ports)
    assert "tritonserver is missing: FLASHPLANE_TRITONSERVER=/nowhere" in said


def test_a_run_dir_goes_with_its_engine_and_its_shared_memory(tmp_path: Path) -> None:
    with run_dir(tmp_path) as run:
        (tmp_path / f"{run.shm_prefix}region").touch()
        assert sweep(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_engines_run_dir_is_swept_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from flash_runtime.backend.rundir import run_dir\n"
        "with run_dir(pathlib.Path(sys.argv[1])) as run:\n"
        "    pathlib.Path(sys.argv[1], run.shm_prefix + 'region').touch()\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with run_dir(tmp_path) as run:
        assert list(tmp_path.iterdir()) == [run.path]


def supervised(folder: Path, script: str) -> str:
    """What supervising a server that runs this script comes to. In a process of its own: it adopts every orphan."""
    program = (
        "import sys; from pathlib import Path; from flash_runtime.backend.supervise import supervise\n"
        "lifeline = Path(sys.argv[1])\n"
        "environ = {'PATH': '/bin:/usr/bin', 'LIFELINE': sys.argv[1]}\n"
        "print(supervise(['sh', '-c', sys.argv[2]], environ, lifeline=lifeline, exit_timeout_seconds=1))\n"
    )
    command = [sys.executable, "-c", program, str(folder / "lifeline"), script]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def test_a_server_that_ends_by_itself_is_an_error_with_its_status(tmp_path: Path) -> None:
    assert (
        supervised(tmp_path, "exit 3") == "Exit(status=3, reason='tritonserver ended with status 3; its log says why')"
    )


def test_the_last_words_of_the_model_process_are_the_reason(tmp_path: Path) -> None:
    script = "exec 3>$LIFELINE; echo $$ >&3; echo 'cannot load the model: no memory' >&3; exec 3>&-; exec sleep 60"
    assert supervised(tmp_path, script) == "Exit(status=1, reason='cannot load the model: no memory')"


def test_a_model_process_that_outlives_its_server_is_ended(tmp_path: Path) -> None:
    script = "exec 3>$LIFELINE; sleep 60 & echo $! >&3; exit 4"
    assert supervised(tmp_path, script).startswith("Exit(status=4")
