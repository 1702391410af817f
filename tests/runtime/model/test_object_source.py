"""`s3://` and `gs://` URIs, the credentials that open them, and what a bucket may say that no model folder has."""

from __future__ import annotations

import builtins
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes.file_server import web

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import Cache
from flash_runtime.model.errors import CheckpointError, ModelError, RequestError
from flash_runtime.model.object_access import Access, Keys, gs_access, s3_access
from flash_runtime.model.object_name import ObjectName, check_endpoint, parse_object_name
from flash_runtime.model.object_source import fetch_objects
from flash_runtime.model.object_store import StoredObject, open_store
from flash_runtime.model.object_transfer import Ranges
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.transfer import TokenRefused

FILE = "/run/secret/file"
KEYS = "[default]\naws_access_key_id = id\naws_secret_access_key = hush/hush\n"
GOOGLE = json.dumps({"type": "service_account", "private_key": "hush"})


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://models", ObjectName("s3", "models", "")),
        ("s3://models/team/olmoe/", ObjectName("s3", "models", "team/olmoe")),
        ("gs://my_models/olmoe", ObjectName("gs", "my_models", "olmoe")),
        (
            "s3://models/a.gguf?endpoint=https://minio:9000&region=eu-west-1",
            ObjectName("s3", "models", "a.gguf", "https://minio:9000", "eu-west-1"),
        ),
    ],
)
def test_a_uri_names_bucket_key_endpoint_and_region(uri: str, name: ObjectName) -> None:
    assert parse_object_name(uri) == name


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3:///key",
        "s3://Bucket/key",
        "s3://models/../other",
        "s3://models/a//b",
        "s3://models/./b",
        "s3://models/a\\b",
        "s3://models/a#b",
        "s3://id:secret@models/a",
        "s3://models/a?prefix=b",
        "s3://models/a?region=",
        "s3://models/a?region=a&region=b",
        "gs://models/a?region=a",
    ],
)
def test_a_uri_that_names_no_object_is_refused(uri: str) -> None:
    with pytest.raises(RequestError, match=r"must be \w+://BUCKET/FOLDER|after the \?, once each"):
        parse_object_name(uri)


@pytest.mark.parametrize(
    ("endpoint", "key", "sha256", "sends_token", "message"),
    [
        ("https://minio:9000", "folder", None, True, None),
        ("http://127.0.0.1:9000", "folder", None, True, None),
        ("http://localhost:9000", "folder", None, True, None),
        ("http://[::1]:9000", "folder", None, True, None),
        ("http://minio:9000", "a.gguf", "ab" * 32, False, None),
        ("http://minio:9000", "a.gguf", None, False, "protects nothing on the way"),
        ("http://minio:9000", "folder", "ab" * 32, False, "name one file and write its model.sha256"),
        ("http://minio:9000", "a.gguf", "ab" * 32, True, "a token is never sent over http://"),
        ("http://127.0.0.1.example.com", "folder", None, False, "protects nothing on the way"),
        ("minio:9000", "folder", None, False, "must be a URL such as https://"),
        ("https://id:secret@minio", "folder", None, False, "must be a URL such as https://"),
    ],
)
def test_an_endpoint_is_https_unless_a_digest_speaks_for_the_file(
    endpoint: str, key: str, sha256: str | None, sends_token: bool, message: str | None
) -> None:
    name = ObjectName("s3", "models", key)
    if message is None:
        return check_endpoint(endpoint, name=name, sha256=sha256, sends_token=sends_token)
    with pytest.raises(RequestError, match=message):
        check_endpoint(endpoint, name=name, sha256=sha256, sends_token=sends_token)


@pytest.mark.parametrize(
    ("text", "environment", "access"),
    [
        (KEYS, {}, Access(Keys("id", "hush/hush"))),
        (KEYS.replace("default", "models"), {}, Access(Keys("id", "hush/hush"))),
        (
            KEYS + "aws_session_token=t\nregion = eu-west-1\nendpoint_url = https://minio\n[other]\na=b\n",
            {"AWS_REGION": "us-east-1"},
            Access(Keys("id", "hush/hush", "t"), region="eu-west-1", endpoint="https://minio"),
        ),
        (
            "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=100%hush\nAWS_REGION=eu-west-1\nAWS_ENDPOINT_URL=https://minio\n",
            {},
            Access(Keys("id", "100%hush"), region="eu-west-1", endpoint="https://minio"),
        ),
        (KEYS, {"AWS_ACCESS_KEY_ID": "other", "AWS_SESSION_TOKEN": "t"}, Access(Keys("id", "hush/hush"))),
    ],
)
def test_the_file_of_an_s3_secret_is_what_aws_tools_write(
    text: str, environment: Mapping[str, str], access: Access
) -> None:
    assert s3_access({ENV_TOKEN_FILE: FILE, **environment}, read=lambda path: text) == access


@pytest.mark.parametrize(
    ("environment", "access"),
    [
        ({}, Access()),
        ({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush"}, Access(Keys("id", "hush"))),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "r", "AWS_DEFAULT_REGION": "eu-west-1"},
            Access(ambient=True, region="eu-west-1"),
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/"}, Access(ambient=True)),
        ({"AWS_ENDPOINT_URL": "https://a", "AWS_ENDPOINT_URL_S3": "https://b"}, Access(endpoint="https://b")),
    ],
)
def test_without_a_secret_a_bucket_is_opened_by_the_environment_or_by_nothing(
    environment: Mapping[str, str], access: Access
) -> None:
    assert s3_access(environment) == access


def test_the_users_own_files_are_read_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(KEYS.replace("default", "work"))
    environment = {"HOME": str(tmp_path), "AWS_PROFILE": "work"}
    assert s3_access(environment).keys == Keys("id", "hush/hush")
    with pytest.raises(RequestError, match=r"in a section \[home\]"):
        s3_access({**environment, "AWS_PROFILE": "home"})
    (tmp_path / ".config/gcloud").mkdir(parents=True)
    own = tmp_path / ".config/gcloud/application_default_credentials.json"
    own.write_text(json.dumps({"type": "authorized_user", "refresh_token": "hush"}))
    assert gs_access(environment).google == {"application_credentials": str(own)}
    own.write_text(GOOGLE)
    other = tmp_path / "key.json"
    other.write_text(GOOGLE)
    assert gs_access({**environment, "GOOGLE_APPLICATION_CREDENTIALS": str(other)}).google == {
        "service_account_key": GOOGLE
    }


@pytest.mark.parametrize(
    "text",
    ["hush", "[default\nhush", "[default]\nhush", KEYS.replace("id = id", "id ="), "[a]\nb=c\n[d]\n", '{"hush": 1}'],
)
def test_a_file_that_holds_no_keys_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(RequestError, match=f"{FILE}: must be an AWS credentials file with") as caught:
        s3_access({ENV_TOKEN_FILE: FILE}, read=lambda path: text)
    assert "hush" not in str(caught.value)
    with pytest.raises(RequestError, match=f"{FILE}: must be the JSON key of a Google service account") as caught:
        gs_access({ENV_TOKEN_FILE: FILE}, read=lambda path: text)
    assert "hush" not in str(caught.value)


def test_secrets_are_not_in_what_a_debugger_prints() -> None:
    shown = repr(s3_access({ENV_TOKEN_FILE: FILE}, read=lambda path: KEYS))
    assert "hush" not in shown + repr(gs_access({ENV_TOKEN_FILE: FILE}, read=lambda path: GOOGLE))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\): cannot be read: No such file"):
        s3_access({ENV_TOKEN_FILE: str(tmp_path / "none")})
    (tmp_path / "large").write_bytes(b"x" * (1 << 17))
    with pytest.raises(RequestError, match=r"large\): must be a small text file"):
        gs_access({ENV_TOKEN_FILE: str(tmp_path / "large")})


class Bucket:
    """A bucket in a dict."""

    def __init__(self, objects: Mapping[str, bytes], *, refuses: bool = False) -> None:
        self.objects = objects
        self.refuses = refuses

    def list(self, folder: str, *, limit: int) -> list[StoredObject]:
        if self.refuses:
            raise TokenRefused("source gs://models: the store refuses access (401)")
        return [StoredObject(key, len(content), "") for key, content in self.objects.items()][:limit]

    def look(self, key: str, *, version: str | None) -> StoredObject:
        return StoredObject(key, len(self.objects[key]), "", version)

    def read(self, found: StoredObject, first: int, end: int) -> bytes:
        return self.objects[found.key][first:end]

    def signed(self, key: str) -> str | None:
        return None


FOLDER = {"m/config.json": b"{}", "m/model.safetensors": b"weights", "m/tokenizer.json": b"{}"}


def fetched(tmp_path: Path, uri: str, *buckets: Bucket, opened: list[Access] | None = None) -> Path:
    given = iter(buckets)

    def open_next(name: ObjectName, access: Access) -> Bucket:
        if opened is not None:
            opened.append(access)
        return next(given)

    return fetch_objects(
        uri,
        revision=None,
        sha256=None,
        environment={},
        cache=Cache(tmp_path / "cache"),
        progress=ProgressReporter(io.StringIO(), None),
        web=web(),
        ranges=Ranges(nbytes=3, at_once=2),
        open_store=open_next,
    )[0]


def test_a_folder_is_what_lies_in_it_and_not_what_its_name_begins(tmp_path: Path) -> None:
    others = {"m/": b"", "m": b"", "m/original/model.safetensors": b"other", "m/notes.txt": b"other"}
    folder = fetched(tmp_path, "s3://models/m", Bucket({**FOLDER, **others}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        key.removeprefix("m/"): content for key, content in FOLDER.items()
    }


@pytest.mark.parametrize("key", ["m/../etc/config.json", "m/./config.json", "m//config.json", "m/a\\b.json", "other/x"])
def test_a_key_that_leads_out_of_its_folder_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match="leads out of the folder; remove the object"):
        fetched(tmp_path, "s3://models/m", Bucket({**FOLDER, key: b"{}"}))
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_bucket_at_google_that_is_not_public_is_opened_by_the_pods_identity(tmp_path: Path) -> None:
    opened: list[Access] = []
    fetched(tmp_path, "gs://models/m", Bucket({}, refuses=True), Bucket(FOLDER), opened=opened)
    assert opened == [Access(), Access(ambient=True)]
    with pytest.raises(TokenRefused):
        fetched(tmp_path, "gs://models/m", Bucket({}, refuses=True), Bucket({}, refuses=True))
    with pytest.raises(TokenRefused):
        fetched(tmp_path, "s3://models/m", Bucket({}, refuses=True), Bucket(FOLDER))


def test_a_file_that_is_no_model_is_refused_and_forgotten(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"begins with b'<htm.*neither a GGUF nor a packed file"):
        fetched(tmp_path, "s3://models/a.gguf", Bucket({"a.gguf": b"<html>" * 9}))
    assert list((tmp_path / "cache/partial").iterdir()) == []


def test_a_missing_library_is_named_with_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object) -> object:
        if name.startswith("obstore"):
            raise ImportError(name)
        return real(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=r"needs the package obstore, .* run pip install 'flashplane\[stores\]'"):
        open_store(ObjectName("s3", "models", "m"), Access())


def test_a_google_key_that_is_none_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ModelError, match=r"source gs://models/m: .*missing field") as caught:
        open_store(ObjectName("gs", "models", "m"), Access(google={"service_account_key": '{"a": "hush"}'}))
    assert "hush" not in str(caught.value)
