"""One name in a real registry: versions and aliases are found, and two writers never write at once."""

from __future__ import annotations

import threading
import time

import pytest

from shutterless.workflows.registry import store as registry_store
from shutterless.workflows.registry.store import LOCK, TAG_LENGTH, Lease, RegistryError, RegistryStore
from shutterless.workflows.tracking.tracking import register_model, track_run


@pytest.fixture(scope="module")
def registry(tracking, make_model):
    """A name with two versions: the first logged by a known run, the second with an alias."""
    folder = make_model("mlp", "mlp")
    with track_run(tracking, "registry-store", "first") as run:
        run.log_model(folder)
    register_model(tracking, run.run_id, "stored")
    register_model(tracking, folder, "stored", "staging")
    return RegistryStore(tracking, "stored"), run.run_id


def locks(store):
    return [key for key in store.read()[1] if key.startswith(LOCK)]


def test_a_version_is_found_by_number_alias_address_and_run(registry):
    store, run_id = registry
    found = [
        store.find_version(text) for text in ("1", run_id, "staging", "models:/stored@staging", "models:/stored/1")
    ]
    assert found == ["1", "1", "2", "2", "1"]
    assert list(store.versions()) == ["1", "2"]
    assert store.run_of("1").info.run_id == run_id


def test_what_is_not_there_is_said_with_what_is(registry, tracking):
    store, _ = registry
    with pytest.raises(
        RegistryError, match=r"stored has no version '7': it has the versions \['1', '2'\] and the alias"
    ):
        store.find_version("7")
    with pytest.raises(RegistryError, match=r"no model 'absent' in sqlite:///.*; there are .*'stored'"):
        RegistryStore(tracking, "absent").read()
    assert (store.exists(), RegistryStore(tracking, "absent").exists()) == (True, False)


def test_what_the_registry_refuses_is_told_with_the_name(registry):
    store, _ = registry
    with pytest.raises(RegistryError, match=r"model 'stored' in sqlite:///.*: .*alias"):
        store.set_alias("no alias, this", "1")
    with pytest.raises(RegistryError, match=r"model 'stored' in sqlite:///.*9"):
        store.describe("9", "text")


def test_a_run_that_was_deleted_is_none(registry, monkeypatch):
    store, _ = registry
    monkeypatch.setattr(RegistryStore, "versions", lambda self: {"1": "0" * 32, "2": ""})
    assert store.run_of("1") is store.run_of("2") is None


def test_tags_longer_than_the_narrowest_database_keeps_are_refused(registry):
    store, _ = registry
    with pytest.raises(
        RegistryError, match=f"tag long of stored would have {TAG_LENGTH + 1} characters of at most 5000"
    ):
        store.write_tag("long", "x" * (TAG_LENGTH + 1))


def test_a_version_of_foreign_source_takes_no_attachment(registry, monkeypatch, tmp_path):
    store, _ = registry
    foreign = type("Version", (), {"source": "s3://bucket/model"})
    monkeypatch.setattr(store.client, "get_model_version", lambda *_: foreign)
    with pytest.raises(
        RegistryError, match=r"version 1 of stored was not logged as a model of its own .*'s3://bucket/m"
    ):
        store.attach("1", tmp_path, "evaluation")


def test_writers_take_turns(registry):
    """Four threads read a number, wait, and write it one higher: none is lost."""
    store, _ = registry
    store.write_tag("count", "0")
    errors = []

    def add_one():
        try:
            with store.locked("thread"):
                before = int(store.read()[1]["count"])
                time.sleep(0.05)
                store.write_tag("count", str(before + 1))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.read()[1]["count"] == "4"
    assert locks(store) == []


def test_the_lock_is_given_back_after_an_error(registry):
    store, _ = registry

    def fail_inside():
        with store.locked("me"):
            raise RuntimeError(f"{len(locks(store))} lock inside")

    with pytest.raises(RuntimeError, match="1 lock inside"):
        fail_inside()
    assert locks(store) == []


def test_the_lock_of_a_crashed_process_is_taken_over(registry, monkeypatch):
    store, _ = registry
    monkeypatch.setattr(registry_store, "LEASE_S", 0.5)
    store.write_tag(f"{LOCK}crashed", '{"who": "gone"}')
    begun = time.monotonic()
    with store.locked("me"):
        assert time.monotonic() - begun >= 0.5
        assert len(locks(store)) == 1
    assert locks(store) == []


def test_patience_ends_with_who_holds_it(registry, monkeypatch):
    store, _ = registry
    monkeypatch.setattr(registry_store, "LOCK_PATIENCE_S", 0.3)
    store.write_tag(f"{LOCK}busy", '{"who": "ada"}')
    with pytest.raises(RegistryError, match=r"stored is being changed by others for 0 s: .*ada"), store.locked("me"):
        pytest.fail("entered")
    store.delete_tag(f"{LOCK}busy")
    assert locks(store) == []


def test_a_lock_held_too_long_stops_its_holder():
    Lease("key", time.monotonic()).check()
    with pytest.raises(RegistryError, match=r"its lock was held for 16 s of at most 15; nothing more was changed"):
        Lease("key", time.monotonic() - 16).check()
