"""`oci://` URIs, and the entry of a Docker configuration that belongs to one."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.model.oci_manifest import Packing, artifact
from flash_runtime.model.oci_name import Login, OciName, login_for, parse_oci_name

DIGEST = "sha256:" + "ab" * 32
AUTH = base64.b64encode(b"user:hush:hush").decode()


@pytest.mark.parametrize(
    ("uri", "name", "base"),
    [
        (
            "oci://registry.example.com/models/olmoe:1",
            OciName("registry.example.com", "models/olmoe", "1", None),
            "https://registry.example.com/v2/models/olmoe",
        ),
        (
            f"oci://registry.example.com:5000/olmoe@{DIGEST}",
            OciName("registry.example.com:5000", "olmoe", None, DIGEST),
            "https://registry.example.com:5000/v2/olmoe",
        ),
        (
            f"oci://registry.models.svc:5000/olmoe:1@{DIGEST}",
            OciName("registry.models.svc:5000", "olmoe", "1", DIGEST),
            "https://registry.models.svc:5000/v2/olmoe",
        ),
        ("oci://localhost:5000/m", OciName("localhost:5000", "m", None, None), "http://localhost:5000/v2/m"),
        ("oci://[::1]:5000/m", OciName("[::1]:5000", "m", None, None), "http://[::1]:5000/v2/m"),
        ("oci://docker.io/ai/m", OciName("docker.io", "ai/m", None, None), "https://registry-1.docker.io/v2/ai/m"),
        (
            "oci://docker.io/m",
            OciName("docker.io", "library/m", None, None),
            "https://registry-1.docker.io/v2/library/m",
        ),
    ],
)
def test_a_uri_names_registry_repository_tag_and_digest(uri: str, name: OciName, base: str) -> None:
    assert parse_oci_name(uri) == name
    assert name.base_url == base


@pytest.mark.parametrize(
    "uri",
    [
        "oci://",
        "oci://registry.example.com",
        "oci://registry.example.com/",
        "oci://registry/model:1",
        "oci://registry.example.com/Model",
        "oci://registry.example.com/model:",
        "oci://registry.example.com/model@",
        "oci://registry.example.com/model@sha256:abc",
        "oci://registry.example.com/../model",
        "oci://registry.example.com/model?tag=1",
        "oci://user:hush@registry.example.com/model",
    ],
)
def test_a_uri_that_names_no_artifact_is_refused(uri: str) -> None:
    with pytest.raises(RequestError, match="must be oci://REGISTRY/REPOSITORY:TAG or"):
        parse_oci_name(uri)


@pytest.mark.parametrize(
    ("uri", "auths", "login"),
    [
        ("oci://r.example.com/m", {"r.example.com": {"auth": AUTH}}, Login("user", "hush:hush")),
        ("oci://r.example.com/m", {"https://r.example.com/v1/": {"auth": AUTH}}, Login("user", "hush:hush")),
        ("oci://r.example.com/m", {"r.example.com": {"username": "u", "password": "p"}}, Login("u", "p")),
        ("oci://r.example.com/m", {"r.example.com": {"identitytoken": "t"}}, Login("", "", "t")),
        ("oci://docker.io/m", {"https://index.docker.io/v1/": {"auth": AUTH}}, Login("user", "hush:hush")),
        ("oci://r.example.com:5000/m", {"r.example.com": {"auth": AUTH}}, None),
        ("oci://r.example.com/m", {"evil.r.example.com": {"auth": AUTH}}, None),
        ("oci://r.example.com/m", {"r.example.com": {}}, None),
    ],
)
def test_a_login_is_that_of_this_registry_and_of_no_other(uri: str, auths: dict[str, Any], login: Login | None) -> None:
    assert login_for(parse_oci_name(uri), json.dumps({"auths": auths}), file="f") == login


@pytest.mark.parametrize(
    "text", ["hush", '"hush"', '{"auths": "hush"}', '{"auths": {"r.example.com": {"auth": "hush"}}}']
)
def test_a_file_that_is_no_docker_configuration_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(RequestError, match="f: must be a Docker configuration") as caught:
        login_for(parse_oci_name("oci://r.example.com/m"), text, file="f")
    assert "hush" not in str(caught.value) + repr(Login("u", "hush", "hush"))


def a_layer(**changes: Any) -> dict[str, Any]:
    title = {"org.opencontainers.image.title": "model.gguf"}
    return {"mediaType": "application/octet-stream", "digest": DIGEST, "size": 3, "annotations": title, **changes}


def test_a_layer_that_was_pushed_as_a_file_is_a_file_whatever_its_type_says() -> None:
    found = artifact("oci://r/m", {"layers": [a_layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")]})
    assert [(blob.name, blob.packing) for blob in found.blobs] == [("model.gguf", Packing.FILE)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([a_layer(digest="md5:abc")], "names the digest 'md5:abc'; sha256 and sha512 are known"),
        ([a_layer(digest="sha256:../../etc")], "names the digest"),
        ([a_layer(size=-1)], "names the size -1 of a layer"),
        ([a_layer(size="3")], "names the size '3' of a layer"),
        ([a_layer()] * 3000, "has 3000 layers; at most 2000 are taken"),
        ("none", "holds no model that is known (config none, layers none)"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(layers: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        artifact("oci://r/m", {"layers": layers})
    assert message in str(caught.value)
