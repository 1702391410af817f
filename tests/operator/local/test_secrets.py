"""The key that `flash chat` sends."""

from __future__ import annotations

import base64

import pytest
import typer
from builders import a_manifest
from typer.testing import CliRunner

from flash_operator.local.commands import register
from flash_operator.local.place import Place
from flash_operator.local.secrets import first_api_key
from flash_operator.local.store import Store

WITH_KEYS = a_manifest(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}})


def a_secret(content: bytes) -> dict[str, object]:
    data = {"api-keys": base64.b64encode(content).decode()}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "keys", "namespace": "default"}, "data": data}


@pytest.mark.parametrize(("content", "key"), [(b"# mine\nsk-1\nsk-2\n", "sk-1"), (b"\n", None), (b"\xff\xfe", "��")])
def test_the_first_line_that_is_no_comment_is_the_key(store: Store, content: bytes, key: str | None) -> None:
    store.apply(a_secret(content))
    assert first_api_key(store, WITH_KEYS) == key


def test_a_damaged_object_is_told_with_its_file_and_what_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place.objects / "default" / "FlashDeployment" / "chat.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    monkeypatch.setenv("FLASHPLANE_STATE", str(place.root))
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["logs"], terminal_width=500)
    assert result.exit_code == 1
    told = result.stderr.replace("\n", "")
    assert "chat.json does not hold an object" in told
    assert "remove the file" in told
