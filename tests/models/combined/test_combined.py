"""A toy in which a pulse in the strip tells half of the events and a number of the context the other half."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shutterless.models.combined.combined import Combined, CombinedError, combine_logits, load_combined
from shutterless.models.combined.fit import fit_combined, fit_weights
from shutterless.models.combined.settings import CombinedSettings, CombinedSettingsError
from shutterless.models.families import build_model
from shutterless.models.forest.forest import is_combined, is_forest
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.stored_files import StoredFileError
from shutterless.pipeline.tokens import TokenGrid

from ..conftest import SMALL_ARCH, make_toy

FEW = ForestSettings(n_trees=30, n_seeds=1, min_leaf=5, learning_rate=0.2)
SHORT = CombinedSettings(n_networks=2, epochs=10, folds=2, asked_per_hour=400, batch_size=32, learning_rate=4e-3)


def labelled(seed: int) -> tuple:
    """Every second trigger is an event; half of these have no pulse, but a high number in their context."""
    toy = make_toy(seed=seed)
    rng = np.random.default_rng(seed)
    is_event = toy.labels.is_event > 0.5
    shown = is_event & (np.arange(len(toy)) % 4 == 1)
    patches = np.where(
        (is_event & ~shown)[:, None, None], rng.standard_normal(toy.strips.patches.shape), toy.strips.patches
    )
    context = pd.DataFrame(rng.standard_normal((len(toy), len(CONTEXT_FEATURES))), columns=list(CONTEXT_FEATURES))
    context.loc[is_event & ~shown, "flux_snr"] += 5.0
    context.loc[::7, "onset_rows"] = np.nan
    context["ramp_share"] = 1.0
    strips = replace(toy.strips, patches=patches.astype(np.float16))
    examples = replace(toy, strips=strips, numbers=context.to_numpy(np.float32))
    return examples, context, np.where(is_event, "flare", "noise").astype(object), shown


@pytest.fixture(scope="module")
def trained() -> tuple[Combined, np.ndarray]:
    examples, context, kind, _ = labelled(1)
    return fit_combined(examples, context, kind, 1.0, FEW, SHORT, architecture=SMALL_ARCH["transformer"])


def score(combined: Combined, examples, context) -> pd.DataFrame:
    return combined.score(context, lambda asked: examples.strips[asked])


def test_networks_that_are_built_alike_are_described_once(trained):
    told = trained[0].describe()
    assert told.count("parameters: learned") == 1
    assert "network 1: as network 0, trained with seed 2" in told
    other = build_model("mlp", trained[0].grid, {"hidden_sizes": []}, context=True)
    told = replace(trained[0], networks=(trained[0].networks[0], other)).describe()
    assert told.count("parameters: learned") == 2


def test_networks_find_what_the_context_does_not_show(trained):
    combined, _ = trained
    examples, context, kind, shown = labelled(2)
    joined = score(combined, examples, context)["event_logit"].to_numpy()
    alone = combined.forest.score(context)["event_logit"].to_numpy()
    noise = kind == "noise"
    limits = [np.quantile(logit[noise], 0.98) for logit in (joined, alone)]
    assert (alone[shown] > limits[1]).mean() < 0.3
    assert (joined[shown] > limits[0]).mean() > 0.6
    assert (joined[~noise & ~shown] > limits[0]).mean() > 0.6


def test_only_what_the_forest_ranks_highest_is_cut_and_shown_to_the_networks(trained):
    examples, context, _, _ = labelled(3)
    seen: list[np.ndarray] = []
    combined = replace(trained[0], ask_above=float(trained[0].forest.score(context)["event_logit"].median()))
    table = combined.score(context, lambda asked: seen.append(asked) or examples.strips[asked])
    forest = combined.forest.score(context)["event_logit"].to_numpy()
    np.testing.assert_array_equal(seen[0], forest > combined.ask_above)
    assert 0.4 < seen[0].mean() < 0.6
    np.testing.assert_allclose(
        table["event_logit"][~seen[0]], combine_logits(combined.weights, forest, forest)[~seen[0]]
    )
    nobody = replace(combined, ask_above=np.inf).score(context, lambda asked: pytest.fail("strips were cut"))
    np.testing.assert_allclose(nobody["event_logit"], combine_logits(combined.weights, forest, forest))


def test_networks_are_not_asked_about_the_ramp(trained):
    examples, context, _, _ = labelled(3)
    combined = replace(trained[0], ask_above=-np.inf)
    context["ramp_share"] = np.where(np.arange(len(context)) < 100, 0.99, 1.0)
    seen: list[np.ndarray] = []
    combined.score(context, lambda asked: seen.append(asked) or examples.strips[asked])
    assert not seen[0][:100].any()
    assert seen[0][100:].all()


def test_so_many_triggers_without_an_event_are_asked_about(trained):
    """400 of 600 in an hour; counted on fields that the forest has not seen."""
    _, context, kind, _ = labelled(1)
    logit = trained[0].forest.score(context)["event_logit"].to_numpy()
    held = trained[1] & (kind == "noise")
    assert (logit[held] > trained[0].ask_above).mean() == pytest.approx(400 / 600, abs=0.01)


def test_fields_held_back_were_not_trained_on(trained):
    examples = labelled(1)[0]
    held = trained[1]
    assert 0 < held.sum() < len(held)
    assert set(examples.groups[held]).isdisjoint(examples.groups[~held])


def test_what_is_saved_comes_back_to_the_bit(trained, tmp_path):
    combined, _ = trained
    combined.save(tmp_path)
    assert is_combined(tmp_path)
    assert not is_forest(tmp_path)
    examples, context, _, _ = labelled(4)
    expected = score(combined, examples, context)
    pd.testing.assert_frame_equal(score(load_combined(tmp_path), examples, context), expected, check_exact=True)


@pytest.mark.parametrize(
    "change", [{"weights": [1.0, 2.0]}, {"n_networks": 0}, {"ask_above": None}, {"model_type": "shutterless-forest"}]
)
def test_a_config_of_something_else_is_refused(trained, tmp_path, change):
    trained[0].save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CombinedError, match=r"config.json is not that of a combined detector"):
        load_combined(tmp_path)


def test_more_folds_than_fields_are_refused():
    examples, context, kind, _ = labelled(1)
    with pytest.raises(
        CombinedSettingsError, match="5 fields to train on, besides those held back, do not fill 9 folds"
    ):
        fit_combined(examples, context, kind, 1.0, FEW, replace(SHORT, folds=9))


def test_weights_are_those_of_a_logistic_regression():
    rng = np.random.default_rng(1)
    forest, networks = rng.normal(0, 2, (2, 40_000))
    is_event = rng.random(40_000) < 1 / (1 + np.exp(-(0.5 * forest + 1.5 * networks - 1)))
    assert fit_weights(forest, networks, is_event) == pytest.approx((-1.0, 0.5, 1.5), abs=0.06)
    assert fit_weights(forest, -forest, forest > 0)[2] == 0.0  # the worse of two is left out


def test_a_pickle_anywhere_in_the_folder_is_refused(trained, tmp_path):
    trained[0].save(tmp_path)
    (tmp_path / "forest" / "more.joblib").write_bytes(b"")
    with pytest.raises(StoredFileError, match=r"holds pickles \['forest/more\.joblib'\]"):
        load_combined(tmp_path)


def test_networks_that_cannot_judge_together_are_refused(trained, tmp_path):
    one, _ = trained[0].networks
    other = build_model("mlp", TokenGrid(n_columns=4, n_rows=32), {"hidden_sizes": []}, context=True)
    replace(trained[0], networks=(one, other)).save(tmp_path / "grids")
    with pytest.raises(CombinedError, match="take strips of different grids"):
        load_combined(tmp_path / "grids")
    blind = build_model("mlp", one.grid, {"hidden_sizes": []})
    replace(trained[0], networks=(one, blind)).save(tmp_path / "blind")
    with pytest.raises(CombinedError, match="sees no context"):
        load_combined(tmp_path / "blind")


def test_networks_see_no_more_triggers_than_they_may_and_the_others_are_counted(trained):
    examples, context, *_ = labelled(5)
    combined, seen = replace(trained[0], ask_above=-np.inf), []
    forest = combined.forest.score(context)["event_logit"].to_numpy()
    table = combined.score(context, lambda asked: seen.append(asked) or examples.strips[asked], most_asked=10)
    (asked,) = seen
    assert asked.sum() == 10
    assert forest[asked].min() >= forest[~asked].max()
    assert table["passed_over"].tolist() == (~asked).tolist()
    alone = combine_logits(combined.weights, forest, forest)
    np.testing.assert_array_equal(table["event_logit"][~asked], alone[~asked])
    whole = score(combined, examples, context)
    np.testing.assert_allclose(table["event_logit"][asked], whole["event_logit"][asked], atol=1e-4)
    assert not whole["passed_over"].any()


def test_networks_are_asked_once_about_a_trail_and_answer_for_all_of_it(trained):
    examples, context, *_ = labelled(5)
    combined, seen = replace(trained[0], ask_above=-np.inf), []
    trails = np.full(len(context), -1)
    trails[3:9], trails[20:22] = 4, 2
    table = combined.score(context, lambda asked: seen.append(asked) or examples.strips[asked], trails=trails)
    forest = combined.forest.score(context)["event_logit"].to_numpy()
    (asked,) = seen
    assert (~asked).sum() == 5 + 1
    assert not table["passed_over"].any()
    intercept, of_forest, of_networks = combined.weights
    said = (table["event_logit"].to_numpy() - intercept - of_forest * forest) / of_networks
    for trail in (4, 2):
        members = np.flatnonzero(trails == trail)
        best = members[np.argmax(forest[members])]
        assert asked[best]
        np.testing.assert_allclose(said[members], said[best])
        assert table["event_logit"][best] == table["event_logit"][members].max()
