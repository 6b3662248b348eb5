from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

from shutterless.models.forest.fit import ForestFitError, fit_forest
from shutterless.models.forest.forest import Forest, ForestError, is_forest, load_forest
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.context.features import CONTEXT_FEATURES

FEW = ForestSettings(n_trees=30, n_seeds=2, min_leaf=5, learning_rate=0.2)


def labelled(seed: int, n: int = 800) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Triggers of which a tenth are events: stronger ones; flares rise, occultations fall."""
    rng = np.random.default_rng(seed)
    context = pd.DataFrame(rng.standard_normal((n, len(CONTEXT_FEATURES))), columns=list(CONTEXT_FEATURES))
    context["same_time_excess"] = np.nan  # no lag is known anywhere
    kind = np.full(n, "noise", dtype=object)
    kind[: n // 10] = np.where(rng.random(n // 10) < 0.5, "flare", "occultation")
    kind[n // 10 : n // 5] = "cosmic_ray"
    is_event = np.isin(kind, ["flare", "occultation"])
    context["strength"] += 4.0 * is_event
    context["sign"] = np.where(kind == "occultation", -1.0, 1.0)
    groups = rng.permutation(n) % 8
    return context, kind, groups


@pytest.fixture(scope="module")
def forest() -> Forest:
    return fit_forest(*labelled(1), FEW)[0]


def test_events_of_another_draw_are_told_and_named(forest):
    context, kind, _ = labelled(2)
    scores = forest.score(context)
    is_event = np.isin(kind, ["flare", "occultation"])
    assert scores["event_logit"][is_event].median() > scores["event_logit"][~is_event].quantile(0.99)
    assert (scores["kind"][is_event] == kind[is_event]).mean() > 0.85
    assert 0 <= scores["probability"].min() <= scores["probability"].max() <= 1


def test_probabilities_are_those_of_the_fields_that_were_held_back():
    context, kind, groups = labelled(3, n=4000)
    forest, held = fit_forest(context, kind, groups, FEW)
    assert set(groups[held]).isdisjoint(groups[~held])
    share = np.isin(kind[held], ["flare", "occultation"]).mean()
    assert forest.score(context[held])["probability"].mean() == pytest.approx(share, abs=0.01)


def test_weights_have_the_rights_of_the_umask(forest, tmp_path):
    before = os.umask(0o022)
    try:
        forest.save(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_is_saved_comes_back_to_the_bit(forest, tmp_path):
    forest.save(tmp_path)
    assert is_forest(tmp_path)
    again = load_forest(tmp_path)
    context = labelled(4)[0]
    pd.testing.assert_frame_equal(again.score(context), forest.score(context), check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_same_seed_grows_the_same_forest(forest):
    again, _ = fit_forest(*labelled(1), FEW)
    context = labelled(4)[0]
    pd.testing.assert_frame_equal(again.score(context), forest.score(context), check_exact=True)


@pytest.mark.parametrize("kinds", [("flare",), ("flare", "burst", "occultation")])
def test_one_kind_or_three_are_named(kinds):
    context, kind, groups = labelled(5)
    is_event = np.flatnonzero(np.isin(kind, ["flare", "occultation"]))
    kind[is_event] = np.array(kinds, dtype=object)[np.arange(len(is_event)) % len(kinds)]
    forest, _ = fit_forest(context, kind, groups, FEW)
    assert set(forest.score(context)["kind"]) <= set(kinds)
    assert forest.kinds == tuple(sorted(kinds, key=["flare", "burst", "occultation"].index))


def test_a_missing_number_is_named(forest):
    with pytest.raises(ForestError, match=r"needs the numbers \['box_snr'\]"):
        forest.score(labelled(1)[0].drop(columns="box_snr"))


def test_no_forest_is_refused(forest, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "shutterless-cnn"}))
    assert not is_forest(tmp_path)
    with pytest.raises(ForestError, match="holds no forest: model_type is 'shutterless-cnn'"):
        load_forest(tmp_path)


def test_damaged_weights_are_refused(forest, tmp_path):
    forest.save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ForestError, match="is damaged"):
        load_forest(tmp_path)


def test_one_field_is_too_few():
    context, kind, groups = labelled(1)
    with pytest.raises(ForestFitError, match="needs triggers of two fields at least"):
        fit_forest(context, kind, np.zeros_like(groups), FEW)


def test_fields_without_an_event_are_refused():
    context, kind, groups = labelled(1)
    with pytest.raises(ForestFitError, match="hold 0 triggers of events"):
        fit_forest(context, np.full_like(kind, "noise"), groups, FEW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": [1.0]}, r"\[calibration\]"),
        ({"kinds": "flare"}, r"\[kinds\] = 'flare'"),
        ({"features": ["strength"]}, "compare more than the 1 numbers"),
        ({"kinds": ["flare", "burst", "glint", "noise", "qpo", "ghost"]}, "other outputs than the 6 kinds"),
    ],
)
def test_config_that_does_not_fit_the_trees_is_refused(forest, tmp_path, change, message):
    forest.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ForestError, match=message):
        load_forest(tmp_path)
