"""Promotion, rollback and history in a real registry; the gates' measurements are made up (test_registry_gates)."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pandas as pd
import pytest

from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.registry import promotion as promotion_module
from shutterless.workflows.registry.gates import Gate, Judgement
from shutterless.workflows.registry.history import CARRIED_OUT, CUT_OFF, OUTSIDE, REFUSED, whoami
from shutterless.workflows.registry.policy import ValidationSection, load_policy
from shutterless.workflows.registry.promotion import promote_version, read_registry_history, roll_back
from shutterless.workflows.registry.store import LOCK, RegistryError, RegistryStore
from shutterless.workflows.tracking.tracking import open_tracking, register_model, resolve_model, track_run

POLICY = load_policy()
NAMES = (f"promoted-{number}" for number in count())


def gate(passed):
    return Gate("completeness", "0.700", "at least 0.5", passed)


def judgement(passed=True):
    tables = {name: pd.DataFrame({"detector": ["d"]}) for name in ("summary", "completeness", "apart", "reliability")}
    return Judgement([gate(passed)], SimpleNamespace(**tables, verdict="a verdict"))


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurement by a judgement: ``measured(passed=False)``; the calls are recorded."""

    def install(passed=True, meanwhile=lambda: None):
        calls = []

        def judge(challenger, champion, frozen, policy, scratch, **_):
            calls.append((challenger, champion))
            meanwhile()
            return judgement(passed)

        monkeypatch.setattr(promotion_module, "judge_challenger", judge)
        return calls

    install()
    return install


@pytest.fixture(scope="module")
def logged(tracking, make_model):
    """Runs that logged three models."""
    runs = []
    for seed in (1, 2, 3):
        with track_run(tracking, "promotion", f"seed {seed}") as run:
            run.log_model(make_model("mlp", "mlp", seed))
        runs.append(run.run_id)
    return runs


@pytest.fixture
def registry(tracking, logged):
    """A fresh name with three versions and no alias."""
    name = next(NAMES)
    for run_id in logged:
        register_model(tracking, run_id, name)
    return RegistryStore(tracking, name)


@pytest.fixture
def move_to(registry, held_out, measured):
    """Promote a version of the fresh name: ``move_to("2", reason="…")``."""
    store, truth = held_out

    def move(version, **options):
        return promote_version(
            registry.tracking, registry.name, version, policy=POLICY, store=store, truth=truth, **options
        )

    return move


def entries_of(registry):
    return read_registry_history(registry.tracking, registry.name).entries


def moves_of(registry):
    return [(e.action, e.old, e.new, e.state) for e in entries_of(registry)]


def champion_of(registry):
    return registry.read()[0].get("champion")


def test_a_promotion_is_kept_in_the_registry_with_everything(registry, move_to, held_out):
    done = move_to("1", reason="the first")
    assert done.promoted
    assert champion_of(registry) == "1"
    (entry,) = entries_of(registry)
    assert (entry.number, entry.action, entry.state, entry.old, entry.new) == (1, "promote", CARRIED_OUT, None, "1")
    assert (entry.who, entry.reason, entry.gates) == (whoami(), "the first", [gate(True).to_dict()])
    assert abs(pd.Timestamp(entry.when) - pd.Timestamp.now("UTC")) < pd.Timedelta("5min")
    assert entry.data["manifest_hash"] == manifest_hash(read_manifest(held_out[0]))
    assert done.text().endswith("moved champion to 1")


def test_a_version_is_promoted_by_run_and_judged_against_the_champion(registry, move_to, measured, logged):
    move_to("1")
    calls = measured()
    done = move_to(logged[1])
    ((challenger, champion),) = calls
    assert (challenger[0], champion[0]) == (f"{registry.name}-v2", f"{registry.name}-v1")
    assert champion_of(registry) == "2"
    assert done.text().endswith("moved champion from version 1 to 2")


def test_the_evaluation_is_attached_to_the_version(registry, move_to):
    move_to("3")
    folder = resolve_model(f"models:/{registry.name}/3", registry.tracking).parent.parent
    written = {path.name for path in (folder / "evaluation").glob("*Z/*")}
    assert written >= {"gates.csv", "summary.csv", "completeness.csv", "verdict.txt"}


def test_a_refusal_is_written_down_and_moves_nothing(registry, move_to, measured):
    move_to("1")
    measured(passed=False)
    refused = move_to("2", reason="hope")
    assert not refused.promoted
    assert champion_of(registry) == "1"
    assert moves_of(registry)[1] == ("promote", "1", "2", REFUSED)
    assert entries_of(registry)[1].reason == "hope"
    assert refused.text().splitlines()[-2:] == [
        "completeness  0.700  at least 0.5  FAIL",
        "refused to move champion from version 1 to 2: completeness",
    ]


@pytest.mark.parametrize(("passed", "word"), [(True, "move"), (False, "refuse")])
def test_a_dry_run_changes_nothing(registry, move_to, measured, passed, word):
    measured(passed)
    before = registry.read()
    answer = move_to("1", dry_run=True)
    assert registry.read() == before
    assert not answer.promoted
    assert f"dry run: would {word}" in answer.text()


def test_what_is_champion_is_not_promoted_again(registry, move_to):
    move_to("1")
    with pytest.raises(RegistryError, match=r"version 1 of promoted-.* is its champion already"):
        move_to("champion")
    assert len(entries_of(registry)) == 1


def test_other_frames_than_those_of_the_last_promotion_are_refused(registry, move_to, training_store, held_out):
    move_to("1")
    frozen, other = (manifest_hash(read_manifest(store)) for store in (held_out[0], training_store))
    with pytest.raises(
        RegistryError, match=f"has manifest_hash {other}, but {frozen} was frozen by the last promotion"
    ):
        promote_version(registry.tracking, registry.name, "2", policy=POLICY, store=training_store, truth=held_out[1])
    refrozen = replace(POLICY, validation=ValidationSection(manifest_hash=other))  # freezes the other frames
    promote_version(registry.tracking, registry.name, "2", policy=refrozen, store=training_store, truth=held_out[1])
    assert champion_of(registry) == "2"


def test_rollbacks_go_back_step_by_step(registry, move_to):
    for version in ("1", "2", "3"):
        move_to(version)
    first = roll_back(registry.tracking, registry.name, reason="3 sees ghosts")
    assert (first.old, first.new, first.reason, champion_of(registry)) == ("3", "2", "3 sees ghosts", "2")
    assert roll_back(registry.tracking, registry.name).new == champion_of(registry) == "1"
    with pytest.raises(RegistryError, match="had no other champion before version 1 that still exists; promote one"):
        roll_back(registry.tracking, registry.name)
    assert moves_of(registry)[3:] == [("rollback", "3", "2", CARRIED_OUT), ("rollback", "2", "1", CARRIED_OUT)]


def test_a_rollback_to_a_version_needs_one_that_was_champion(registry, move_to):
    move_to("1")
    move_to("2")
    with pytest.raises(RegistryError, match=r"version 3 of .* was never its champion; these were: \['1', '2'\]"):
        roll_back(registry.tracking, registry.name, version="3")
    with pytest.raises(RegistryError, match=r"version 2 of .* is its champion already"):
        roll_back(registry.tracking, registry.name, version="2")
    assert roll_back(registry.tracking, registry.name, version="1").new == champion_of(registry) == "1"
    assert roll_back(registry.tracking, registry.name, version="2").new == champion_of(registry) == "2"  # and forward


def test_a_rollback_passes_over_a_version_that_was_deleted(registry, move_to):
    for version in ("1", "2", "3"):
        move_to(version)
    registry.client.delete_model_version(registry.name, "2")
    assert roll_back(registry.tracking, registry.name).new == "1"


def test_nothing_to_roll_back(registry):
    with pytest.raises(RegistryError, match=r"had no other champion before version None"):
        roll_back(registry.tracking, registry.name)


def test_an_alias_moved_behind_our_back_is_told_and_then_kept(registry, move_to):
    move_to("1")
    registry.set_alias("champion", "3")
    history = read_registry_history(registry.tracking, registry.name)
    assert history.notes == ["champion stands at version 3, the history at 1: it was set outside of shutterless"]
    assert len(history.entries) == 1  # reading writes nothing
    move_to("2")
    assert moves_of(registry)[1:] == [(OUTSIDE, "1", "3", CARRIED_OUT), ("promote", "3", "2", CARRIED_OUT)]
    assert roll_back(registry.tracking, registry.name).new == "3"
    assert read_registry_history(registry.tracking, registry.name).notes == []


def test_a_champion_from_before_there_was_a_history_is_told(registry):
    registry.set_alias("champion", "2")
    (note,) = read_registry_history(registry.tracking, registry.name).notes
    assert note.startswith("champion stands at version 2, the history at none")


@pytest.mark.parametrize(
    ("where", "stands", "half", "state"),
    [("set_alias", "1", "the alias was not moved", CUT_OFF), ("write_tag", "2", "the alias was moved", CARRIED_OUT)],
)
def test_an_interruption_is_seen_and_mended(registry, move_to, monkeypatch, where, stands, half, state):
    """Before the alias is moved, or after it and before the entry is closed."""
    move_to("1")
    original, written = getattr(RegistryStore, where), []

    def interrupted(self, key, value):
        if where == "set_alias" or (key.startswith("shutterless.history") and written):
            raise KeyboardInterrupt
        written.extend([key] if key.startswith("shutterless.history") else [])
        original(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(RegistryStore, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            move_to("2")
    history = read_registry_history(registry.tracking, registry.name)
    assert champion_of(registry) == stands
    assert history.notes == [f"entry 2 was interrupted: {half}"]
    move_to("3")
    assert [e.state for e in entries_of(registry)] == [CARRIED_OUT, state, CARRIED_OUT]
    assert read_registry_history(registry.tracking, registry.name).notes == []


def test_who_is_at_it_now_is_named(registry, move_to, monkeypatch):
    seen = []
    original = RegistryStore.set_alias

    def look(self, alias, version):
        seen.append(read_registry_history(self.tracking, self.name).notes)
        original(self, alias, version)

    monkeypatch.setattr(RegistryStore, "set_alias", look)
    move_to("1")
    assert seen == [[f"entry 1 was interrupted: the alias was not moved; {whoami()} may be at it now"]]


def test_a_champion_that_changed_during_the_measurement_refuses_the_challenger(registry, move_to, measured):
    move_to("1")
    measured(meanwhile=lambda: registry.set_alias("champion", "3"))
    late = move_to("2")
    assert not late.promoted
    assert champion_of(registry) == "3"
    assert late.text().endswith("champion became version 3 while the gates were measured against 1; try again")
    assert moves_of(registry)[1:] == [(OUTSIDE, "1", "3", CARRIED_OUT), ("promote", "1", "2", REFUSED)]


def test_two_at_once_lose_no_entry_and_agree_with_the_alias(registry, move_to, measured):
    barrier, outcomes = threading.Barrier(2), []
    measured(meanwhile=barrier.wait)  # both have seen that there is no champion before either writes
    threads = [threading.Thread(target=lambda v=v: outcomes.append(move_to(v))) for v in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome.promoted]
    assert champion_of(registry) == winner.new
    history = read_registry_history(registry.tracking, registry.name)
    assert sorted(e.state for e in history.entries) == [CARRIED_OUT, REFUSED]
    assert [e.number for e in history.entries] == [1, 2]
    assert history.notes == []


def roll_back_and_forth(uri, name, n_times):
    tracking = open_tracking(uri)
    for _ in range(n_times):
        for version in ("1", "2"):
            try:
                roll_back(tracking, name, version=version)
            except RegistryError as error:
                assert "already" in str(error)  # noqa: PT017


@pytest.mark.slow
def test_processes_that_move_one_alias_leave_a_history_without_gaps(registry, move_to):
    move_to("1")
    move_to("2")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=roll_back_and_forth, args=(registry.tracking.uri, registry.name, 3)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    history = read_registry_history(registry.tracking, registry.name)
    assert [e.number for e in history.entries] == list(range(1, len(history.entries) + 1))
    for before, after in zip(history.entries, history.entries[1:], strict=False):
        assert after.old == before.new
    assert (history.entries[-1].new, history.notes) == (champion_of(registry), [])


def die_under_the_lock(uri, name):
    RegistryStore.set_alias = lambda *_: os._exit(9)
    roll_back(open_tracking(uri), name, version="1")


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_mends(registry, move_to, monkeypatch):
    move_to("1")
    move_to("2")
    process = multiprocessing.get_context("spawn").Process(
        target=die_under_the_lock, args=(registry.tracking.uri, registry.name)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    (note,) = read_registry_history(registry.tracking, registry.name).notes
    assert note.startswith("entry 3 was interrupted: the alias was not moved; ")
    monkeypatch.setattr("shutterless.workflows.registry.store.LEASE_S", 1.0)
    begun = time.monotonic()
    roll_back(registry.tracking, registry.name)
    assert time.monotonic() - begun >= 1.0
    assert moves_of(registry)[2:] == [("rollback", "2", "1", CUT_OFF), ("rollback", "2", "1", CARRIED_OUT)]
    assert not any(key.startswith(LOCK) for key in registry.read()[1])


def test_the_history_in_words(registry, move_to):
    move_to("1", reason="the first")
    lines = read_registry_history(registry.tracking, registry.name).text().splitlines()
    assert lines[0].endswith(f"promote champion: none → 1  done  by {whoami()}")
    assert lines[1:3] == ["      why: the first", "      pass  completeness 0.700  at least 0.5"]
    assert lines[-1] == "champion is version 1"
    registry.set_alias("champion", "2")
    assert (
        read_registry_history(registry.tracking, registry.name).text().splitlines()[-1].startswith("NOTE champion st")
    )


def test_a_name_without_history_says_so(registry):
    assert read_registry_history(registry.tracking, registry.name).text() == f"{registry.name}: no entry"
