"""The table of vetoes: which one applies first, and every veto is known wherever vetoes are read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.detection import vetoes
from shutterless.pipeline.detection.vetoes import (
    NO_MODEL_FLATNESS,
    VETOES,
    count_same_row,
    describe_veto,
    kinds_by_veto,
    need_a_model,
    veto_reasons,
)
from shutterless.pipeline.events.kinds import EVENT_KINDS, KINDS


def test_veto_reasons_and_their_order():
    table = pd.DataFrame(
        [
            (5.0, 10.0, 0.1, 9.0, 0.8, 0.0, 0, ""),
            (5.0, 10.0, 0.5, 9.0, 0.8, 0.0, 0, "shape"),
            (5.0, 10.0, 0.5, 3.0, 0.8, 0.0, 0, ""),  # too weak to be sure of its shape
            (50.0, 10.0, 0.25, 9.0, 0.8, 0.0, 0, ""),  # long events may fit worse
            (50.0, 10.0, 0.5, 9.0, 0.8, 0.0, 0, "shape"),
            (5.0, 10.0, 0.1, 9.0, 0.95, 0.0, 0, "sharp"),  # above 0.78 + 1.3 / 10
            (5.0, -6.0, 0.1, 9.0, 0.95, 0.0, 0, ""),  # below 0.78 + 1.3 / 6
            (5.0, 10.0, 0.1, 9.0, 0.8, 0.9, 0, "wide"),
            (5.0, 10.0, 0.1, 9.0, 0.8, -0.6, 0, ""),
            (5.0, -10.0, 0.1, 9.0, 0.8, -0.7, 0, "flanks"),  # below -0.3 - 3.5 / 10
            (5.0, 10.0, 0.1, 9.0, 0.8, 0.0, 1, ""),  # two by chance
            (5.0, 10.0, 0.1, 9.0, 0.8, 0.0, 2, "same row"),
            (5.0, 10.0, 0.5, 9.0, 1.2, 0.9, 2, "same row"),
        ],
        columns=[
            *("width_rows", "snr", "chi2_excess", "chi2_significance", "sharpness", "flatness", "n_same_row"),
            "expected",
        ],
    )
    table = table.assign(template_sharpness=0.7, template_flatness=-0.2, light_inside=1.0)
    assert veto_reasons(table).tolist() == table["expected"].tolist()
    cut = veto_reasons(table.assign(light_inside=0.79)).tolist()
    assert cut == ["same row" if reason == "same row" else "edge" for reason in table["expected"]]


def test_count_same_row_in_the_head():
    triggers = pd.DataFrame(
        {
            "x": [10.0, 50.0, 14.0, 90.0, 70.0],
            "y": 0.0,
            "row_peak": [100, 102, 100, 103, 101],
            "snr": [9.0, -8.0, 7.0, 6.0, 4.0],  # the last is too weak to count, but has its own count
        }
    )
    # 10 sees 50; 50 sees 10, 14 and 90 (one row off); 14 sees 50; 90 sees 50; 70 sees all of the first four
    assert count_same_row(triggers, triggers).tolist() == [1, 3, 1, 1, 4]
    assert count_same_row(triggers.iloc[:0], triggers).tolist() == []
    assert count_same_row(triggers, triggers.iloc[:0]).tolist() == [0, 0, 0, 0, 0]


def test_the_first_veto_of_the_table_that_applies_is_kept(monkeypatch):
    table = pd.DataFrame({"width_rows": [5.0, 50.0], "n_same_row": [2, 0], "snr": [9.0, 9.0]})
    made_up = vetoes.Veto("long", "it lasts long", "more than 9 rows", "a cloud", "trap", lambda _, is_long: is_long)
    monkeypatch.setattr(vetoes, "VETOES", (VETOES[0], made_up))
    assert veto_reasons(table).tolist() == ["same row", "long"]
    assert veto_reasons(table, long_width=4).tolist() == ["same row", "long"]
    monkeypatch.setattr(vetoes, "VETOES", (made_up, VETOES[0]))
    assert veto_reasons(table, long_width=4).tolist() == ["long", "long"]
    assert kinds_by_veto() == {"": "noise", "long": "trap", "same row": "pickup"}
    assert describe_veto("long") == "long: it lasts long"


@pytest.mark.parametrize("veto", VETOES, ids=lambda veto: veto.name)
def test_every_veto_has_a_name_of_its_own_its_words_and_a_kind_that_is_no_event(veto):
    assert [other.name for other in VETOES].count(veto.name) == 1
    assert all((veto.name, veto.meaning, veto.limit, veto.cause))
    assert veto.kind in set(KINDS) - set(EVENT_KINDS)
    assert describe_veto(veto.name) == f"{veto.name}: {veto.meaning}"


def test_limits_are_quoted_with_their_numbers():
    limits = {veto.name: veto.limit for veto in VETOES}
    assert limits["sharp"] == "sharpness above 0.78 + 1.3/S/N"
    assert limits["flanks"] == "flatness below −0.3 − 3.5/S/N"
    assert limits["shape"] == "χ² excess per squared S/N above 0.15, at 3.5 σ (0.3 and 5 σ beyond 9 rows)"


def test_what_is_no_veto_is_described_by_its_name():
    assert (describe_veto(""), describe_veto("crooked")) == ("none", "crooked")


def test_no_model_is_asked_about_what_is_far_beyond_the_limits():
    """At S/N 10 the veto's limit is 0.78 + 0.13; 0.2 more is certainly no event."""
    table = pd.DataFrame({"snr": 10.0, "template_sharpness": 0.7, "sharpness": [0.95, 1.10, 1.12, 0.8, 0.8]})
    table["flatness"] = [0.0, 0.0, 0.0, 0.75, NO_MODEL_FLATNESS + 0.01]
    np.testing.assert_array_equal(need_a_model(table), [True, True, False, True, False])
