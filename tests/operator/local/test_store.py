"""Objects on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_operator.local.place import Place
from flash_operator.local.store import Ref, Store, StoreError, write_atomically


def an_object(kind: str = "ConfigMap", name: str = "a", **content: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **content}


A = Ref("ConfigMap", "default", "a")


def reopened(place: Place) -> Store:
    return Store(place.objects, now=lambda: "later")


def test_an_object_survives_the_process_that_stored_it(store: Store, place: Place) -> None:
    stored = store.apply(an_object(data={"k": "v"}))
    assert reopened(place).get(A) == stored


def test_a_changed_spec_is_a_new_generation_of_the_same_object(store: Store) -> None:
    first = store.apply(an_object(spec={"replicas": 1}))
    second = store.apply(an_object(spec={"replicas": 2}))
    assert (first["metadata"]["generation"], second["metadata"]["generation"]) == (1, 2)
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


def test_applying_the_same_again_changes_nothing_and_tells_no_one(store: Store) -> None:
    before = store.apply(an_object(spec={"replicas": 1}))
    told: list[Ref] = []
    store.on_change(told.append)
    assert store.apply(an_object(spec={"replicas": 1})) == before
    assert told == []


def test_a_status_is_kept_by_apply_and_raises_no_generation(store: Store) -> None:
    store.apply(an_object(spec={"replicas": 1}))
    store.write_status(A, {"ready": 1})
    applied = store.apply(an_object(spec={"replicas": 2}))
    assert applied["status"] == {"ready": 1}
    assert applied["metadata"]["generation"] == 2


def test_resource_versions_never_repeat_after_a_restart(store: Store, place: Place) -> None:
    last = store.apply(an_object(spec={"replicas": 1}))["metadata"]["resourceVersion"]
    later = reopened(place).apply(an_object(name="b"))["metadata"]["resourceVersion"]
    assert int(later) > int(last)


def test_deleting_an_owner_deletes_what_it_owns_and_nothing_else(store: Store) -> None:
    owner = store.apply(an_object(kind="FlashDeployment", name="owner"))
    owned = an_object(name="owned")
    owned["metadata"] = {**owned["metadata"], "ownerReferences": [{"uid": owner["metadata"]["uid"]}]}  # type: ignore[dict-item]
    store.apply(owned)
    store.apply(an_object(name="free"))
    store.delete(Ref("FlashDeployment", "default", "owner"))
    assert [manifest["metadata"]["name"] for manifest in store.list("ConfigMap")] == ["free"]


def test_what_a_caller_does_to_an_answer_does_not_change_the_store(store: Store) -> None:
    store.apply(an_object(data={"k": "v"}))
    store.get(A)["data"]["k"] = "other"  # type: ignore[index]
    assert store.get(A)["data"] == {"k": "v"}  # type: ignore[index]


def test_stored_files_are_private(store: Store, place: Place) -> None:
    store.apply(an_object(kind="Secret", data={"api-keys": "c2VjcmV0"}))
    files = [path for path in place.objects.rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]
    assert place.root.stat().st_mode & 0o777 == 0o700


def test_a_write_that_fails_leaves_the_old_content_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_being_written_when_the_power_went_is_not_an_object(store: Store, place: Place) -> None:
    store.apply(an_object())
    (place.objects / "default" / "ConfigMap" / ".b.json.x1").write_text('{"kind":')
    assert len(reopened(place).list("ConfigMap")) == 1


def test_a_damaged_file_is_named_with_what_to_do(store: Store, place: Place) -> None:
    store.apply(an_object())
    (place.objects / "default" / "ConfigMap" / "a.json").write_text(json.dumps({"kind": "ConfigMap"}))
    with pytest.raises(StoreError, match=r"a\.json.*remove the file"):
        reopened(place)
