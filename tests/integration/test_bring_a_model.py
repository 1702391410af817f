"""`flash up` with models from a bucket and from a registry, each with its Secret: they answer a chat request."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import obstore
import pytest
import yaml
from artifacts import push, titled
from local_plugin import local_stack
from obstore.store import S3Store
from openai import OpenAI
from stores_plugin import ACCESS_KEY, LOGIN, SECRET_KEY, Server
from tiny_checkpoints import write_checkpoint

from flash_operator.local.listeners import free_ports

pytestmark = pytest.mark.timeout(300)


def deployment(name: str, source: str, secret: str, key: str, port: int) -> dict[str, object]:
    return {
        "apiVersion": "flashplane.dev/v1alpha1",
        "kind": "FlashDeployment",
        "metadata": {"name": name},
        "spec": {
            "variant": "Lite",
            "model": {"source": source, "credentialsSecretRef": {"name": secret, "key": key}},
            "endpoint": {"port": port},
        },
    }


def secret(name: str, key: str, content: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: content}}


def test_models_from_a_bucket_and_from_a_registry_answer(
    s3: Server, login_registry: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHPLANE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {path.name: path.read_bytes() for path in write_checkpoint(tmp_path / "qwen3-moe", "qwen3_moe").iterdir()}
    (s3.data / "served").mkdir()
    config = {"endpoint": s3.url, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "region": "us-east-1"}
    store = S3Store("served", config=config, client_options={"allow_http": True})
    for name, content in files.items():
        obstore.put(store, f"tiny/{name}", content)
    push(
        login_registry.url,
        "tiny",
        "v1",
        [titled(name, content) for name, content in files.items()],
        login=LOGIN,
    )
    keys = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    auth = base64.b64encode(":".join(LOGIN).encode()).decode()
    docker = json.dumps({"auths": {login_registry.host: {"auth": auth}}})
    ports = free_ports(2, ())
    documents = [
        secret("bucket", "credentials", keys),
        secret("registry", ".dockerconfigjson", docker),
        deployment("from-s3", f"s3://served/tiny?endpoint={s3.url}", "bucket", "credentials", ports[0]),
        deployment("from-oci", f"oci://{login_registry.host}/tiny:v1", "registry", ".dockerconfigjson", ports[1]),
    ]
    with local_stack("from-s3") as stack:
        stack.manifest.write_text(yaml.safe_dump_all(documents))
        stack.up()
        answers = []
        for name, port in zip(("from-s3", "from-oci"), ports, strict=True):
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
            messages = [{"role": "user", "content": "Hello"}]
            answer = client.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0)  # type: ignore[arg-type]
            answers.append(answer.choices[0].message.content)
            assert answer.usage is not None
            assert answer.usage.completion_tokens > 0
        assert answers[0] == answers[1]
        logs = "".join(path.read_text(errors="replace") for path in stack.state.rglob("*.log"))
        assert SECRET_KEY not in logs
        assert LOGIN[1] not in logs
        assert "is sha256:" in logs
