"""The history of a registered model as plain entries, and the entries that settle an interruption."""

from __future__ import annotations

import getpass
from dataclasses import replace

import pytest

from shutterless.workflows.registry import history as registry_history
from shutterless.workflows.registry.history import (
    CARRIED_OUT,
    CUT_OFF,
    GATE_LENGTH,
    OUTSIDE,
    PENDING,
    PROMOTE,
    REFUSED,
    ROLLBACK,
    Entry,
    champions,
    check_reason,
    describe_entry,
    new_entry,
    next_number,
    read_alias_history,
    settle,
    whoami,
)
from shutterless.workflows.registry.store import TAG_LENGTH, RegistryError


def entry(number, old, new, action=PROMOTE, state=CARRIED_OUT, alias="champion"):
    return Entry(number, action, state, alias, old, new, "ada@observatory", f"2026-03-04T05:06:{number:02d}+00:00")


def story(*moves):
    """Entries of moves such as "1", "2" (promoted) and "<1" (rolled back to)."""
    entries, now = [], None
    for number, move in enumerate(moves, start=1):
        version = move.lstrip("<")
        entries.append(entry(number, now, version, ROLLBACK if move.startswith("<") else PROMOTE))
        now = version
    return entries


def test_an_entry_comes_back_from_its_tag_as_it_was():
    gates = [{"name": "completeness", "value": "0.5", "limit": "at least 0.4", "passed": True}]
    made = new_entry(
        7, PROMOTE, CARRIED_OUT, "champion", "1", "2", reason="ρ50 is lower", gates=gates, data={"manifest_hash": "a"}
    )
    assert made.key.startswith("shutterless.history.000007.")
    assert read_alias_history({made.key: made.encode(), "other": "no entry"}) == [made]


def test_entries_of_one_number_have_keys_of_their_own():
    """Two processes that write at once overwrite nothing."""
    keys = {new_entry(3, PROMOTE, CARRIED_OUT, "champion", "1", "2").key for _ in range(20)}
    assert len(keys) == 20


def test_the_longest_entry_fits_into_a_tag():
    """Nine gates of the longest values, the longest reason: MLflow's column holds 5,000 characters."""
    gate = {"name": "error of comparison", "value": "9" * GATE_LENGTH, "limit": "9" * GATE_LENGTH, "passed": False}
    made = new_entry(999_999, PROMOTE, REFUSED, "champion", "123456", "123457", reason="ö" * 1000, gates=[gate] * 9)
    made = replace(made, who="u" * 64 + "@" + "h" * 64, data={"manifest_hash": "a" * 32, "truth_sha256": "b" * 64})
    assert len(made.encode()) <= TAG_LENGTH


def test_reasons_that_would_not_fit_are_refused():
    assert check_reason("ö" * 1000)
    with pytest.raises(RegistryError, match="the reason has 1001 characters, and 1000 are kept; shorten it"):
        check_reason("a" * 1001)


def test_a_tag_changed_by_hand_is_named():
    with pytest.raises(
        RegistryError, match=r"tag shutterless\.history\.000001\.ab of the registered model is no entry"
    ):
        read_alias_history({"shutterless.history.000001.ab": "{}"})
    with pytest.raises(RegistryError, match="set it right or delete it"):
        read_alias_history({"shutterless.history.000001.ab": "{not json"})


def test_history_is_ordered_by_number():
    entries = [entry(number, None, str(number)) for number in (10, 2, 1)]
    assert [e.number for e in read_alias_history({e.key: e.encode() for e in entries})] == [1, 2, 10]
    assert (next_number(entries), next_number([])) == (11, 1)


@pytest.mark.parametrize(
    ("moves", "path"),
    [
        ((), []),
        (("1", "2", "3"), ["1", "2", "3"]),
        (("1", "2", "3", "<2"), ["1", "2"]),
        (("1", "2", "3", "<2", "<1"), ["1"]),
        (("1", "2", "3", "<1"), ["1"]),
        (("1", "2", "<1", "3"), ["1", "3"]),  # 2 was rolled back: going back from 3 leads to 1
        (("1", "2", "1", "<2"), ["1", "2"]),  # the last of two visits is undone
        (("1", "2", "<1", "<2"), ["1", "2"]),  # forward again
    ],
)
def test_path_of_champions(moves, path):
    assert champions(story(*moves), "champion") == path


def test_what_was_refused_or_of_another_alias_moved_nothing():
    entries = [entry(1, None, "1"), entry(2, "1", "2", state=REFUSED), entry(3, "1", "9", alias="staging")]
    assert champions(entries, "champion") == ["1"]


def test_an_interruption_before_the_alias_moved_took_no_effect():
    entries = [entry(1, None, "1"), entry(2, "1", "2", state=PENDING)]
    (closed,) = settle(entries, {"champion": "1"}, "champion")
    assert closed == replace(entries[1], state=CUT_OFF)


def test_an_interruption_after_the_alias_moved_did():
    entries = [entry(1, None, "1"), entry(2, "1", "2", state=PENDING)]
    (closed,) = settle(entries, {"champion": "2"}, "champion")
    assert closed == replace(entries[1], state=CARRIED_OUT)


def test_an_alias_moved_from_outside_gets_an_entry():
    entries = story("1", "2")
    (found,) = settle(entries, {"champion": "5"}, "champion")
    assert (found.number, found.action, found.state, found.old, found.new) == (3, OUTSIDE, CARRIED_OUT, "2", "5")
    assert settle([*entries, found], {"champion": "5"}, "champion") == []
    assert champions([*entries, found], "champion") == ["1", "2", "5"]


def test_an_alias_deleted_from_outside_gets_an_entry():
    (found,) = settle(story("1"), {}, "champion")
    assert (found.old, found.new) == ("1", None)


def test_an_interruption_and_a_move_from_outside_are_both_told():
    entries = [entry(1, None, "1"), entry(2, "1", "2", state=PENDING)]
    closed, moved = settle(entries, {"champion": "5"}, "champion")
    assert (closed.state, moved.old, moved.new) == (CUT_OFF, "1", "5")


def test_agreement_needs_nothing():
    assert settle(story("1", "2"), {"champion": "2", "staging": "1"}, "champion") == []
    assert settle([], {}, "champion") == []


def test_an_entry_in_words():
    gates = [{"name": "completeness", "value": "0.3", "limit": "at least 0.5", "passed": False}]
    refused = replace(entry(2, "1", "2", state=REFUSED), gates=gates, reason="try", data={"manifest_hash": "abc"})
    assert describe_entry(refused).splitlines() == [
        "   2  2026-03-04T05:06:02+00:00  promote champion: 1 → 2  refused  by ada@observatory",
        "      why: try",
        "      FAIL  completeness 0.3  at least 0.5",
        "      manifest_hash: abc",
    ]


def test_a_user_without_a_name_is_unknown(monkeypatch):
    def nameless():
        raise KeyError("uid 4711")

    monkeypatch.setattr(registry_history.getpass, "getuser", nameless)
    assert whoami().startswith("unknown@")
    monkeypatch.undo()
    assert whoami().startswith(f"{getpass.getuser()}@")
