"""One amplifier through several detectors at once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shutterless.models import families
from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.detection import triggers as triggers_module
from shutterless.pipeline.detection.vetoes import need_a_model
from shutterless.pipeline.store.store import read_manifest
from shutterless.workflows.searching.detect import (
    Detector,
    DetectTask,
    detect,
    detector_columns,
    keep_best_of_trails,
    read_rates,
    write_rates,
)
from shutterless.workflows.tracking.tracking import TEMPLATE_BANK

BANK = Detector(TEMPLATE_BANK, None)
SCORES = ["score", "probability", "kind", "kind_probability"]


@pytest.fixture(scope="module")
def models(make_model):
    return [Detector(name, str(make_model(name, name))) for name in ("cnn", "mlp")]


@pytest.fixture(scope="module")
def task(held_out, models):
    """An amplifier with events, cosmic rays and pickup; everything above 5σ."""
    store, _ = held_out
    entry = read_manifest(store).query("file.str.startswith('busy')")["entry"].iloc[0]
    return DetectTask(str(store), entry, (BANK, *models), 5.0)


@pytest.fixture(scope="module")
def found(task):
    return detect(task)


def test_score_of_the_bank_is_its_signal_to_noise_or_nothing_where_vetoed(found):
    vetoed = found["veto"] != ""
    assert vetoed.any()
    assert not vetoed.all()
    np.testing.assert_array_equal(found.loc[~vetoed, "template-bank/score"], found.loc[~vetoed, "snr"].abs())
    assert (found.loc[vetoed, "template-bank/score"] == -np.inf).all()
    assert found["template-bank/probability"].isna().all()
    assert found["template-bank/kind"].isna().all()


def test_only_the_best_of_a_trail_keeps_its_score():
    trail = pd.Series([0, None, 0, 1, 0, 1, 2, 2], dtype="Int64")
    score = np.array([6.0, 7.0, 9.0, -np.inf, 9.0, 3.0, -np.inf, -np.inf])
    kept = keep_best_of_trails(score, trail)
    assert kept.tolist() == [-np.inf, 7.0, 9.0, -np.inf, -np.inf, 3.0, -np.inf, -np.inf]
    assert keep_best_of_trails(score[:0], trail[:0]).tolist() == []


def test_every_detector_keeps_one_score_of_a_trail(task, monkeypatch):
    """All triggers are said to be two trails; every detector then has at most two scores, the best of each."""

    def halves(triggers, n_rows):
        return np.arange(len(triggers)) % 2

    alone = detect(task)
    monkeypatch.setattr(triggers_module, "find_trails", halves)
    joined = detect(task)
    for detector in task.detectors:
        score = joined[f"{detector.name}/score"]
        best = score.groupby(joined["trail_id"]).max()
        assert np.isfinite(score).sum() == np.isfinite(best).sum() <= 2
        assert best.max() == alone[f"{detector.name}/score"].max()


def test_models_score_also_what_the_bank_vetoes_but_not_what_needs_no_model(found, task):
    assert (found["entry"] == task.entry).all()
    asked = need_a_model(found)
    assert not asked.all()
    assert (found["veto"].ne("") & asked).any()
    for name in ("cnn", "mlp"):
        assert np.isfinite(found.loc[asked, f"{name}/score"]).all()
        assert (found.loc[~asked, f"{name}/score"] == -np.inf).all()
        assert (found.loc[~asked, f"{name}/probability"] == 0).all()
        assert found.loc[asked, f"{name}/probability"].between(0, 1).all()
        assert found.loc[asked, f"{name}/kind_probability"].between(0, 1).all()
    assert not np.array_equal(found["cnn/score"], found["mlp/score"])


def test_table_is_the_same_in_whatever_order_and_company_detectors_are_asked(found, task):
    backwards = detect(replace(task, detectors=task.detectors[::-1]))
    pd.testing.assert_frame_equal(backwards[found.columns], found, check_exact=True)
    for detector in task.detectors:
        alone = detect(replace(task, detectors=(detector,)))
        pd.testing.assert_frame_equal(
            detector_columns(alone, detector.name), detector_columns(found, detector.name), check_exact=True
        )


def test_higher_threshold_keeps_just_the_stronger_triggers(found, task):
    strong = detect(replace(task, detectors=(BANK,), threshold=8.0))
    assert 0 < len(strong) < len(found)
    assert (strong["snr"].abs() >= 8).all()


def test_name_of_a_detector_may_hold_slashes(task, models):
    name = "shutterless-cnn (runs/mine/cnn)"
    table = detect(replace(task, detectors=(BANK, Detector(name, models[0].folder))))
    own = detector_columns(table, name)
    assert [column for column in own if "/" in column] == []
    np.testing.assert_array_equal(own["score"], table[f"{name}/score"])


def test_columns_of_one_detector_get_plain_names_and_those_of_others_go():
    table = pd.DataFrame({"x": [1.0], "a/score": [2.0], "a/kind": ["flare"], "ab/score": [3.0]})
    assert detector_columns(table, "a").to_dict("records") == [{"x": 1.0, "score": 2.0, "kind": "flare"}]
    assert detector_columns(table, "ab").to_dict("records") == [{"x": 1.0, "score": 3.0}]


def test_amplifier_without_triggers_gives_an_empty_table_with_every_column(task, found):
    nothing = detect(replace(task, threshold=1e6))
    assert len(nothing) == 0
    assert list(nothing.columns) == list(found.columns)
    assert set(SCORES) <= set(detector_columns(nothing, "cnn").columns)


def test_model_is_loaded_once_for_all_amplifiers(held_out, make_model, monkeypatch):
    store, _ = held_out
    loaded, load = [], families.load_model
    monkeypatch.setattr(families, "load_model", lambda folder: loaded.append(folder) or load(folder))
    own = Detector("mlp", str(make_model("once", "mlp")))
    for entry in read_manifest(store)["entry"]:
        detect(DetectTask(str(store), entry, (own,), 6.0))
    assert len(read_manifest(store)) == 4
    assert [str(folder) for folder in loaded] == [own.folder]


def test_false_alarm_curve_is_read_as_it_was_written_with_the_hash_of_its_frames(tmp_path):
    curve = RateCurve(np.array([9.5, 7.25, 6.0]), live_hours=0.125, pixel_rows_per_hour=7e7)
    folder = tmp_path / "new" / "cnn"
    write_rates(folder, curve, "abc")
    read = read_rates(folder)
    np.testing.assert_array_equal(read.scores, curve.scores)
    assert (read.live_hours, read.pixel_rows_per_hour) == (0.125, 7e7)
    assert json.loads((folder / "rates.json").read_text())["manifest_hash"] == "abc"


def test_detector_that_was_never_evaluated_has_no_curve(tmp_path):
    assert read_rates(tmp_path) is None
