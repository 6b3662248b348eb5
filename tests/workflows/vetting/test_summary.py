"""How a vetter is measured on injected events."""

from __future__ import annotations

import pytest

from shutterless.workflows.vetting.blind import VetError, open_blind
from shutterless.workflows.vetting.candidate_queue import line_up
from shutterless.workflows.vetting.desk import Desk
from shutterless.workflows.vetting.summary import describe_vetters, measure_vetter, summarise_vetters


def test_completeness_and_purity_solved_in_the_head():
    """Of 20 candidates 4 are false alarms and 16 real. Who finds half of those, and calls 10 events, is 80 % pure."""
    completeness, purity = measure_vetter(5, 10, 10, 20, 4.0)
    assert completeness.text() == "50 % (24–76)"
    assert purity.value == pytest.approx(0.5 * 16 / 10)
    assert purity.low == pytest.approx(0.2366 * (16 - 1.96 * 2) / 10, abs=1e-4)
    assert purity.high == 1.0
    assert measure_vetter(10, 10, 0, 20, 4.0)[1] is None
    assert measure_vetter(10, 10, 5, 9, 9.0)[1] is None  # by its own account the search found nothing


def test_a_vetter_is_measured_once_the_whole_blind_test_is_labelled(blind_search):
    blind = open_blind(blind_search)
    injected = set(blind.truth["candidate_id"])
    desk = Desk(line_up(blind_search, blind), blind_search / "vetting" / "labels.csv", "ada")
    names = [queued.name for queued in desk.queue]
    hidden = [name for name in names if name in injected]
    for name in hidden[:-1]:
        desk.add({"candidate_id": name, "label": "event", "kind": "", "confidence": 100})
    (summary,) = summarise_vetters(blind_search)
    assert (summary.n_labelled, summary.blind, summary.completeness) == (0, None, None)
    for name in [hidden[-1], *(name for name in names if name not in injected)]:
        desk.add({"candidate_id": name, "label": "artefact", "kind": "noise", "confidence": 67})
    (summary,) = summarise_vetters(blind_search)
    assert (summary.n_labelled, summary.n_candidates) == (len(names) - 10, len(names) - 10)
    assert summary.blind == {"event": 9, "artefact": 1}
    assert summary.completeness.value == 0.9
    assert summary.purity is None  # no candidate of the frames was called an event
    assert "Of 10 injected events 9 were called events" in describe_vetters(blind_search)


def test_a_search_without_labels_is_refused(search):
    with pytest.raises(VetError, match=r"labels.csv holds no label; label candidates with `shutterless vet"):
        summarise_vetters(search)
