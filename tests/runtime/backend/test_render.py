"""What tritonserver is given: repository, command line, environment."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from flash_api.config.engine import EngineConfig
from flash_api.names import TRITON_MODEL
from flash_runtime import wire
from flash_runtime.backend import canary
from flash_runtime.backend.command import ENV_LIFELINE, Listen, server_arguments, server_environment
from flash_runtime.backend.repository import FILE_ENGINE_CONFIG, FILE_MODEL, FILE_MODEL_CONFIG, model_repository
from flash_runtime.tritonserver import Tritonserver
from flash_runtime.wire import GenerateRequest


def a_config() -> EngineConfig:
    return EngineConfig(
        served_model_name='with "quotes"', source="builtin://smollm2-135m-instruct", model_dir="/models"
    )


def a_server(kind: str = "wheel") -> Tritonserver:
    return Tritonserver(Path("/t/bin/tritonserver"), (Path("/t/a.so"),), Path("/t/stub"), kind)  # type: ignore[arg-type]


def arguments(**listen: object) -> list[str]:
    return server_arguments(
        a_server(),
        repository=Path("/run/repository"),
        backends=Path("/run/backends"),
        listen=Listen(**listen),  # type: ignore[arg-type]
        shm_prefix="flash-engine-1-",
        exit_timeout_seconds=17,
        closed_api_key="drawn",
    )


def test_the_repository_holds_one_decoupled_model_with_the_wires_tensors() -> None:
    text = model_repository(a_config())[FILE_MODEL_CONFIG]
    assert f'name: "{TRITON_MODEL}"' in text
    assert "decoupled: true" in text
    for tensor in (wire.INPUT_IDS, wire.REQUEST, wire.OUTPUT_IDS, wire.EVENT):
        assert f'name: "{tensor}"' in text


def test_the_engine_config_travels_in_the_repository_unchanged() -> None:
    files = model_repository(a_config())
    assert EngineConfig.model_validate_json(files[FILE_ENGINE_CONFIG]) == a_config()
    assert "with" not in files[FILE_MODEL_CONFIG]


def test_the_shim_only_imports_the_model() -> None:
    docstring, statement = ast.parse(model_repository(a_config())[FILE_MODEL]).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(statement, ast.ImportFrom)
    assert (statement.module, statement.names[0].name) == ("flash_runtime.backend.model", "TritonPythonModel")


def test_every_endpoint_listens_where_it_is_told() -> None:
    command = arguments(address="127.0.0.1", http_port=1, grpc_port=2, metrics_port=3)
    assert command[0] == "/t/bin/tritonserver"
    assert {
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
        *("--http-port=1", "--grpc-port=2", "--metrics-port=3"),
    } <= set(command)


def test_the_administrative_apis_are_closed_on_both_protocols() -> None:
    closed = [argument for argument in arguments() if "restricted" in argument]
    assert len(closed) == 2
    for argument in closed:
        assert "model-repository" in argument
        assert argument.endswith("=drawn")


def test_streams_may_run_as_long_as_the_config_says_after_sigterm() -> None:
    assert "--exit-timeout-secs=17" in arguments()


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [("wheel", {}, "/py/lib"), ("wheel", {"LD_LIBRARY_PATH": "/x"}, "/py/lib:/x"), ("container", {}, None)],
)
def test_the_wheels_stub_is_told_where_libpython_lies(kind: str, before: dict[str, str], after: str | None) -> None:
    environ = server_environment(
        a_server(kind),
        {"PATH": "/bin", **before},
        python=Path("/venv/bin/python"),
        python_libraries=Path("/py/lib"),
        lifeline=Path("/run/lifeline"),
    )
    assert environ["PATH"] == "/venv/bin:/bin"
    assert environ.get("LD_LIBRARY_PATH") == after
    assert environ[ENV_LIFELINE] == "/run/lifeline"


def test_the_canary_speaks_the_wire_without_importing_it() -> None:
    assert f"/v2/models/{TRITON_MODEL}/generate_stream" == canary.PATH
    assert set(canary.BODY) == {wire.INPUT_IDS, wire.REQUEST}
    assert GenerateRequest.model_validate_json(str(canary.BODY[wire.REQUEST])).max_tokens == 1
    assert json.dumps(wire.OUTPUT_IDS).encode() == canary.SIGN
