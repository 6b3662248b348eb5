"""Group runs to models, choose a model with reasons, and write the page and the table."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from browser import find_overflow

from shutterless.workflows.comparison import verdict as compare_verdict
from shutterless.workflows.comparison.compare import CompareError, compare_runs, filter_of
from shutterless.workflows.comparison.models import (
    choose_data,
    differing_hyperparameters,
    group_controls,
    group_models,
    prepare_runs,
)
from shutterless.workflows.comparison.pairs import Gap, Pairing
from shutterless.workflows.comparison.verdict import (
    choose_model,
    describe_size,
    format_gap,
    format_interval,
    format_value,
)
from shutterless.workflows.tracking.record import FORCED_CHOICE, record_evaluation
from shutterless.workflows.tracking.tracking import TrackingError, fetch_runs, read_losses, read_table, track_run

N_EVENTS = 240
RHO = np.linspace(4, 16, N_EVENTS)
NO_CONTROLS = pd.DataFrame({"twin": [], "family": [], "shares": []})


def events_found(found):
    """A table of events of twelve sequences, with the given ones found."""
    index = np.arange(len(found))
    return pd.DataFrame({
        "detector": "d", "event_id": [f"e{i}" for i in index], "kind": "flare", "rho": RHO[: len(found)],
        "sequence": [f"s{i % 12}" for i in index], "file": [f"f{i % 24}" for i in index],
        "entry": [f"f{i % 24}q1" for i in index], "score": 1.0, "found": found,
    })  # fmt: skip


def completeness_bins(found):
    bins = pd.DataFrame({"rho_low": [4.0, 8.0], "rho_high": [8.0, 16.0], "n": 120, "kind": "all", "detector": "d"})
    bins["found"] = [found[:120].sum(), found[120:].sum()]
    return bins.assign(completeness=bins["found"] / 120, low=0.0, high=1.0)


def log_model(tracking, experiment, family, n_parameters, threshold, *, seed=1, paired=True):
    """A run of a detector that finds events above a threshold; its seed decides on one event in ten."""
    lucky = np.random.default_rng(seed).random(N_EVENTS)
    found = np.where(lucky < 0.1, lucky < 0.05, threshold < RHO)
    with track_run(tracking, experiment, family, {"shuffled": "false", "night": "one"}) as run:
        run.log_params({"family": family, "n_parameters": n_parameters}, prefix="arch.")
        if n_parameters:
            run.log_params({"dropout": 0.1, f"{family}_size": n_parameters}, prefix="arch.")
            run.log_params({"learning_rate": 1e-3, "seed": seed, "epochs": 6}, prefix="train.")
            run.log_metrics({FORCED_CHOICE: 0.7, f"{FORCED_CHOICE}_error": 0.01})
            for step in (1, 2, 3):
                run.log_metrics({"train.loss": 2 / step, "validation.loss": 2.1 / step}, step)
            run.log_tags({"learning_curve": "still learning"})
        run.log_data(manifest_hash="frames", seed=seed)
        share = float(found.mean())
        summary = {"detector": "d", "completeness": share, "completeness_low": share - 0.06, "rate_per_hour": 50.0}
        summary |= {"completeness_high": share + 0.06, "rho50": float(threshold), "loss_mag": 0.1}
        reliability = pd.DataFrame({
            "detector": "d", "bin_low": [0.0, 0.5], "bin_high": [0.5, 1.0], "mean_probability": [0.2, 0.8],
            "observed_fraction": [0.1, 0.9], "n": [30, 10],
        })  # fmt: skip
        record_evaluation(
            run, summary, completeness_bins(found), events=events_found(found) if paired else None,
            reliability=reliability if n_parameters else None, eta=6.0, data_hash="held-out" if paired else None,
        )  # fmt: skip
    return run.run_id


def log_control(tracking, experiment, family, n_parameters, share, *, seed):
    """A run of a training with shuffled labels, for fewer epochs, that was never evaluated."""
    with track_run(tracking, experiment, f"{family}-shuffled-{seed}", {"shuffled": "true", "night": "one"}) as run:
        run.log_params({"family": family, "n_parameters": n_parameters}, prefix="arch.")
        run.log_params({"dropout": 0.1, f"{family}_size": n_parameters}, prefix="arch.")
        run.log_params({"learning_rate": 1e-3, "seed": seed, "epochs": 2}, prefix="train.")
        run.log_data(manifest_hash="frames", seed=seed)
        run.log_metrics({FORCED_CHOICE: share, "validation.loss": 0.7})


@pytest.fixture(scope="module")
def uri(tracking):
    """Two seeds of a transformer and of a CNN that is nearly as good, a poor MLP with two controls, and the bank."""
    for seed in (1, 2):
        log_model(tracking, "comparison", "transformer", 400_000, 6.0, seed=seed)
        log_model(tracking, "comparison", "cnn", 200_000, 6.05, seed=seed)
    log_model(tracking, "comparison", "mlp", 500_000, 10.0)
    log_model(tracking, "comparison", "template-bank", 0, 7.5)
    for seed, share in ((1, 0.49), (2, 0.52)):
        log_control(tracking, "comparison", "mlp", 500_000, share, seed=seed)
    with track_run(tracking, "comparison", "broken") as run:
        run.log_metrics({"threshold": 1.0})
    return tracking.uri


@pytest.fixture(scope="module")
def comparison(uri, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "new"
    return compare_runs(tracking_uri=uri, experiment="comparison", metric="completeness", out=out), out


def test_runs_that_differ_in_the_seed_alone_are_one_model(comparison):
    models = comparison[0].models.set_index("model")
    assert list(models.index) == ["transformer", "cnn", "template-bank", "mlp"]
    assert models["n_seeds"].to_dict() == {"transformer": 2, "cnn": 2, "template-bank": 1, "mlp": 1}
    runs = comparison[0].runs
    values = runs.loc[runs["model"] == "cnn", "metrics.completeness"]
    assert models.loc["cnn", "mean"] == pytest.approx(values.mean())
    assert models.loc["cnn", "spread"] == pytest.approx(values.std(ddof=1))


def test_verdict_takes_the_simpler_of_two_equals_and_says_why(comparison):
    """The bank is simpler still, but far behind; the MLP is larger and poor."""
    verdict = comparison[0].verdict
    assert (verdict.best, verdict.simplest) == ("transformer", "cnn")
    assert verdict.lines[0].startswith("Best of 4 by completeness: transformer, 400,000 parameters, ")
    assert re.search(
        r"^Take cnn \(200,000 parameters\): it is behind by \d\.\d ± \d\.\d points \(paired bootstrap over 12 "
        r"sequences, the same 240 events, with the scatter over seeds\), not worse within one standard error.*200,000 "
        r"more of transformer\.$",
        verdict.lines[1],
    )
    assert "Trained with one seed only, so that their scatter is not in the errors: mlp." in verdict.lines
    assert "Only 12 blocks were resampled, so the errors themselves are known to 21 %." in verdict.lines
    assert any(
        line.startswith("The learning curve of cnn is 'still learning' (2 of 2 seeds)") for line in verdict.lines
    )


def test_controls_are_no_models_and_say_what_the_labels_of_their_twin_taught(comparison):
    """Whatever the metric is: they need not have logged it."""
    (said,) = [line for line in comparison[0].verdict.lines if line.startswith("Control")]
    assert said == (
        "Control: mlp: of an event and a false trigger of equal S/N it chooses the event in 70.0 ± 1.0 % with true "
        "labels, in 50.5 ± 1.5 % with shuffled ones (trained 2 times): it learned from them."
    )


def test_error_of_pairs_is_smaller_than_that_of_two_intervals(comparison):
    gaps = {gap.model: gap for gap in comparison[0].verdict.gaps}
    assert gaps["template-bank"].paired
    assert gaps["template-bank"].n_events == N_EVENTS
    unpaired = np.hypot(0.12, 0.12) / 3.92  # two intervals of ± 6 points
    assert gaps["template-bank"].standard_error < unpaired
    assert gaps["template-bank"].low > 0
    assert not gaps["template-bank"].within_one_error


def test_table_holds_every_run_with_everything_and_its_model(comparison):
    table = pd.read_parquet(comparison[1] / "comparison.parquet")
    assert len(table) == 9
    assert set(table.loc[~table["judged"], "name"]) == {"broken", "mlp-shuffled-1", "mlp-shuffled-2"}
    judged = table[table["judged"]]
    assert judged["metrics.completeness"].is_monotonic_decreasing
    assert set(judged["model"]) == set(comparison[0].models["model"])
    assert set(table.loc[table["control"], "name"]) == {"mlp-shuffled-1", "mlp-shuffled-2"}
    assert judged["params.arch.n_parameters"].notna().all()
    assert table["run_id"].str.fullmatch("[0-9a-f]{32}").all()


def test_page_is_self_contained_and_holds_every_part(comparison, tmp_path):
    page = (comparison[1] / "comparison.html").read_text(encoding="utf-8")
    assert find_overflow(page, tmp_path) == []
    assert "http" not in re.sub(r"data:image[^\"]*", "", page)
    for anchor in ("verdict", "models", "pairs", "hyperparameters", "cost", "learning", "completeness", "calibration"):
        assert f'<section id="{anchor}">' in page
    assert page.count("<img") == 4
    places = [page.index(f">{name}<") for name in ("transformer", "cnn", "template-bank", "mlp")]
    assert places == sorted(places)
    assert "6 of 9 runs are judged, one for each model and seed. 1 did not log completeness. 2 are controls" in page
    assert re.search(r"Of one family alone: [^.]*transformer_size \(transformer\)", page)
    assert "still learning (2 of 2 seeds)" in page
    assert re.search(
        r"Of cnn, template-bank, mlp: paired bootstrap over 12 sequences, the same 240 events, with the sc", page
    )


def test_terminal_gets_table_and_verdict(comparison):
    text = comparison[0].text()
    assert text.index("template-bank") < text.index("Best of 4")
    assert "Take cnn" in text


@pytest.mark.parametrize(
    ("where", "tags", "models"),
    [("params.arch.family = 'cnn'", (), ["cnn"]),
     ("metrics.rho50 < 7", ("night=one",), ["transformer", "cnn"])],
)  # fmt: skip
def test_filter_and_tags_choose_runs(uri, tmp_path, where, tags, models):
    found = compare_runs(
        tracking_uri=uri, experiment=["comparison"], metric="completeness", out=tmp_path, where=where, tags=tags
    )
    assert list(found.models["model"]) == models


def test_runs_of_several_experiments_and_other_data_are_told_apart(tracking, uri, tmp_path):
    log_model(tracking, "elsewhere", "cnn", 100_000, 5.0, paired=False)  # judged on data of another hash
    found = compare_runs(tracking_uri=uri, experiment=["comparison", "elsewhere"], metric="completeness", out=tmp_path)
    assert found.models["n_parameters"].tolist()[:2] == [400_000, 200_000]
    assert found.runs["judged"].sum() == 6
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "1 others were evaluated on other data, or repeat a seed." in page


def test_without_events_the_intervals_decide_and_it_is_said(tracking, tmp_path):
    for family, size, threshold in (("transformer", 400, 6.0), ("cnn", 200, 6.3)):
        log_model(tracking, "unpaired", family, size, threshold, paired=False)
    verdict = compare_runs(
        tracking_uri=tracking.uri, experiment="unpaired", metric="completeness", out=tmp_path
    ).verdict
    (gap,) = verdict.gaps
    assert gap.how == "unpaired, from the two 95 % intervals: no events were logged of transformer and cnn"
    assert gap.standard_error == pytest.approx(np.hypot(0.12, 0.12) / 3.92)
    assert verdict.simplest == "cnn"
    assert verdict.lines[2].startswith("Not all models could be paired event by event")


@pytest.mark.parametrize(
    ("metric", "first", "how"),
    [("loss", "good", "scatter over 3 and 3 seeds"), ("accuracy", "poor", "scatter over 3 and 3 seeds")],
)
def test_other_metrics_are_judged_by_the_scatter_over_seeds(tracking, tmp_path, metric, first, how):
    """Smaller is better for a loss, larger for an accuracy."""
    experiment = f"metric {metric}"
    for family, size, level in (("good", 20, 1.0), ("poor", 10, 2.0)):
        for seed in (1, 2, 3):
            with track_run(tracking, experiment, family) as run:
                run.log_params({"family": family, "n_parameters": size, "size": size}, prefix="arch.")
                run.log_data(manifest_hash="frames", seed=seed)
                run.log_metrics({metric: level + 0.1 * seed})
    verdict = compare_runs(tracking_uri=tracking.uri, experiment=experiment, metric=metric, out=tmp_path).verdict
    (gap,) = verdict.gaps
    assert (verdict.best, gap.how) == (first, how)
    assert (gap.behind, gap.standard_error) == (pytest.approx(1.0), pytest.approx(np.sqrt(2 * 0.01 / 3)))
    assert verdict.simplest == first


def frame(rows):
    """Runs as they are fetched, the newest first, of a list of dictionaries."""
    runs = pd.DataFrame(rows)
    runs["run_id"] = [f"r{i}" for i in range(len(runs))]
    return runs.assign(start_time=pd.Timestamp("2026-01-01", tz="UTC"), experiment="made")


def run_row(family="cnn", seed=1, value=0.5, **more):
    return {
        "name": family, "params.arch.family": family, "params.arch.n_parameters": "10", "params.train.lr": "0.1",
        "params.data.manifest_hash": "d", "params.train.seed": str(seed), "metrics.completeness": value, **more,
    }  # fmt: skip


def models_of(rows, metric="completeness"):
    prepared = prepare_runs(frame(rows))
    return group_models(prepared, metric, choose_data(prepared, metric))


def verdict_of(rows, metric, tracking):
    return choose_model(models_of(rows, metric), group_controls(prepare_runs(frame(rows))), metric, tracking)


def test_a_repetition_is_no_further_seed_and_the_newest_counts():
    models = models_of([run_row(value=0.6), run_row(value=0.5), run_row(seed=2, value=0.8)])
    assert models[["n_seeds", "mean"]].to_numpy().tolist() == [[2, pytest.approx(0.7)]]


def test_models_that_differ_in_one_setting_are_named_by_it():
    models = models_of([run_row(value=0.6), run_row(value=0.5, **{"params.train.lr": "0.2"})])
    assert list(models["model"]) == ["cnn lr 0.1", "cnn lr 0.2"]
    table, single = differing_hyperparameters(models, "train")
    assert table.to_dict("index") == {"lr": {"cnn lr 0.1": "0.1", "cnn lr 0.2": "0.2"}}
    assert single == []
    assert differing_hyperparameters(models, "arch")[0].empty


def test_runs_of_the_same_weights_are_joined():
    """One run trained the model, another evaluated it and does not know how it was trained."""
    trained = run_row(**{"tags.model.hash": "w", "metrics.validation.loss": 0.3, "tags.learning_curve": "converged"})
    trained |= {"metrics.completeness": np.nan, "params.train.n_examples": "7"}
    judged = run_row(**{"tags.model.hash": "w", "tags.evaluation.data_hash": "e", "params.data.training_hash": "d"})
    (model,) = models_of([judged, trained]).to_dict("records")
    assert (model["run_ids"], model["curve_ids"], model["diagnoses"]) == (["r0"], ["r1"], ["converged"])
    assert model["metrics.validation.loss"] == 0.3


def test_data_with_most_models_is_judged():
    rows = [run_row("cnn"), run_row("mlp"), run_row("big", value=0.9)]
    for row, data in zip(rows, ("a", "a", "b"), strict=True):
        row["tags.evaluation.data_hash"] = data
    assert list(models_of(rows)["name"]) == ["cnn", "mlp"]


def gap_of(behind, error):
    return Gap("m", behind, error, np.nan, np.nan, 0, 0, "made")


def test_one_standard_error_is_the_limit_and_an_unknown_one_passes_nobody():
    assert gap_of(0.01, 0.01).within_one_error
    assert gap_of(-0.02, 0.0).within_one_error
    assert not gap_of(0.011, 0.01).within_one_error
    assert not gap_of(0.0, np.nan).within_one_error


def test_unknown_errors_give_no_simpler_model_and_say_so(tracking):
    rows = [run_row("big", value=0.9, **{"params.arch.n_parameters": "20"}), run_row("small", value=0.89)]
    verdict = verdict_of([{**row, "metrics.loss": row["metrics.completeness"]} for row in rows], "loss", tracking)
    assert verdict.best == verdict.simplest == "small"  # a smaller loss is better, and it is smaller
    rows[0]["metrics.loss"], rows[1]["metrics.loss"] = 0.1, 0.2
    verdict = verdict_of(rows, "loss", tracking)
    assert verdict.simplest == "big"
    assert "cannot be told, because of 1 models no error is known" in verdict.lines[1]


def test_single_model_and_missing_twin_are_said(tracking):
    verdict = verdict_of([run_row(), run_row("mlp", **{"tags.shuffled": "true"})], "completeness", tracking)
    assert verdict.lines[1] == "There is no other to compare it with."
    assert "its twin with true ones is not among these" in verdict.lines[-1]


def test_controls_that_logged_no_choices_are_said(tracking):
    verdict = verdict_of([run_row(), run_row(**{"tags.shuffled": "true"})], "completeness", tracking)
    assert verdict.lines[-1] == f"Control: cnn with shuffled labels; not all of its runs logged {FORCED_CHOICE}."


def test_newest_control_of_each_seed_counts():
    rows = [run_row(seed=seed, **{"tags.shuffled": "true", f"metrics.{FORCED_CHOICE}": share})
            for seed, share in ((1, 0.5), (2, 0.6), (1, 0.9))]  # fmt: skip
    (control,) = group_controls(prepare_runs(frame(rows))).to_dict("records")
    assert (control["family"], control["shares"]) == ("cnn", [0.5, 0.6])


def test_controls_alone_are_refused():
    with pytest.raises(CompareError, match="all runs with 'completeness' are controls with shuffled labels"):
        models_of([run_row(**{"tags.shuffled": "true"})])


def test_events_that_are_not_the_same_are_not_paired(tracking):
    ids = []
    for n in (100, 120):
        with track_run(tracking, "pairs", "one") as run:
            run.log_table(events_found(np.ones(n, bool)), "events")
        ids.append(run.run_id)
    models = models_of([run_row("a", value=0.9), run_row("b", value=0.8)])
    best, other = (models.iloc[i].copy() for i in (0, 1))
    best["run_ids"], other["run_ids"] = [ids[0]], [ids[1]]
    gap = Pairing(tracking, "completeness", best).compare(other)
    assert (gap.paired, gap.how) == (False, "one seed, and nothing logged that tells the error")
    best["metrics.completeness_low"] = other["metrics.completeness_low"] = 0.7
    best["metrics.completeness_high"] = other["metrics.completeness_high"] = 0.9
    assert Pairing(tracking, "completeness", best).compare(other).how.endswith("100 of 100 and 120 events are the same")


def test_values_are_written_for_people():
    assert (format_value(0.8321, "completeness"), format_value(0.8321, "rho50")) == ("83.2 %", "0.8321")
    assert format_gap(0.0123, 0.02, "completeness") == "1.2 ± 2.0 points"
    assert format_gap(0.5, np.nan, "loss") == "0.5"
    assert [describe_size(n) for n in (0, 1234.0, np.nan)] == [
        "no learned parameters",
        "1,234 parameters",
        "size not logged",
    ]


def test_interval_has_a_unit_and_a_true_minus():
    assert format_interval(-0.008, 0.026, "completeness", " points") == "−0.8 to 2.6 points"
    assert format_interval(0.793, 0.875, "completeness") == "79.3 to 87.5 %"
    assert format_interval(1.5, 2.25, "rho50") == "1.5 to 2.25"
    assert format_interval(np.nan, 1.0, "rho50") == "–"


def test_model_of_numbered_runs_is_named_without_the_number():
    rows = [run_row(seed=seed, **{"params.train.lr": lr}) | {"name": f"{name}-{seed}"} for seed in (1, 2)
            for name, lr in (("slow", "0.1"), ("fast", "0.2"))]  # fmt: skip
    assert set(models_of(rows)["model"]) == {"slow", "fast"}


def test_lead_whose_interval_holds_zero_is_said_not_to_be_sure(tracking, tmp_path):
    """Of 240 events the larger finds 12 that the smaller does not, in six of twelve sequences, and misses 3 others."""
    index = np.arange(N_EVENTS)
    base = RHO > 7
    found = {"big": base | np.isin(index, np.arange(0, 72, 6)), "small": base.copy()}
    found["small"][[1, 13, 27]] = True
    for name, size in (("big", 200), ("small", 100)):
        with track_run(tracking, "unsure", name) as run:
            run.log_params({"family": name, "n_parameters": size, "size": size}, prefix="arch.")
            run.log_data(manifest_hash="frames", seed=1)
            summary = {"detector": "d", "completeness": float(found[name].mean())}
            record_evaluation(
                run, summary, completeness_bins(found[name]), events=events_found(found[name]), data_hash="x"
            )
    verdict = compare_runs(tracking_uri=tracking.uri, experiment="unsure", metric="completeness", out=tmp_path).verdict
    (gap,) = verdict.gaps
    assert gap.low < 0 < gap.high
    assert ("That lead is not sure" in verdict.lines[1]) == (gap.standard_error < gap.behind)
    assert gap.behind == pytest.approx((found["big"].sum() - found["small"].sum()) / N_EVENTS)


def test_scatter_of_the_model_that_has_several_seeds_is_in_the_error(tracking):
    """One model has a single seed: for completeness the scatter of the other counts; else nothing is known."""
    rows = [run_row("a", value=0.9)] + [run_row("b", seed=seed, value=0.7 + 0.1 * seed) for seed in (0, 1)]
    for row in rows:
        row |= {"metrics.loss": row["metrics.completeness"], "metrics.completeness_low": 0.5}
        row |= {"metrics.completeness_high": 0.5}
    models = models_of(rows)
    best, other = models.iloc[0], models.iloc[1]
    known = Pairing(tracking, "completeness", best)
    known._found |= {best["key"]: None, other["key"]: None}
    assert known.compare(other).standard_error == pytest.approx(0.05)  # 0.1 / √2 over √2 seeds
    assert np.isnan(Pairing(tracking, "loss", best).compare(other).standard_error)


def test_models_that_are_clearly_behind_are_not_read(tracking):
    rows = [run_row("a", value=0.9), run_row("b", value=0.84), run_row("c", value=0.5), run_row("d", value=0.4)]
    for row in rows[:3]:
        row |= {"metrics.completeness_low": row["metrics.completeness"] - 0.05}
        row |= {"metrics.completeness_high": row["metrics.completeness"] + 0.05}
    models = models_of(rows).set_index("model", drop=False)
    pairing = Pairing(tracking, "completeness", models.loc["a"])
    assert [pairing.may_pass(models.loc[name]) for name in "bcd"] == [False, False, True]  # of d no error is known
    assert pairing.may_pass(models.loc["b"].copy().replace({0.84: 0.86}))


def test_simplest_of_all_that_pass_is_taken_and_what_was_not_read_is_said(tracking, monkeypatch):
    """Ten models at equal distance of 0.001, the error is 0.05; only some of them may be read."""
    rows = [run_row(f"m{i}", value=0.9 - 0.001 * i, **{"params.arch.n_parameters": str(100 - i)}) for i in range(10)]
    for row in rows:
        row |= {"metrics.completeness_low": 0.8, "metrics.completeness_high": 0.96}
    models = models_of(rows)
    monkeypatch.setattr(Pairing, "_events_of", lambda *_: None)
    verdict = choose_model(models, NO_CONTROLS, "completeness", tracking)
    assert (verdict.best, verdict.simplest) == ("m0", "m9")
    monkeypatch.setattr(compare_verdict, "MOST_PAIRED", 8)
    verdict = choose_model(models, NO_CONTROLS, "completeness", tracking)
    assert verdict.simplest == "m8"
    assert verdict.lines[-1].startswith("1 simpler models that are further behind")


def test_tables_and_histories_are_read_back(tracking):
    with track_run(tracking, "reading", "one") as run:
        run.log_table(pd.DataFrame({"a": [1, 2]}), "numbers")
        run.log_metrics({"train.loss": 2.0}, 10)
        run.log_metrics({"train.loss": 1.0, "validation.loss": 1.5}, 20)
    assert read_table(tracking, run.run_id, "numbers").to_dict("list") == {"a": [1, 2]}
    assert read_table(tracking, run.run_id, "others") is None
    history = read_losses(tracking, run.run_id)
    assert history.to_numpy().tolist() == [[10, "train", 2.0], [20, "train", 1.0], [20, "validation", 1.5]]


def test_table_of_an_unknown_run_is_an_error(tracking):
    with pytest.raises(TrackingError, match=r"table events of run 0{32} cannot be read"):
        read_table(tracking, "0" * 32, "events")


def test_tags_become_a_filter():
    assert filter_of("a = 'b'", ["night=one", "git=x=y"]) == "a = 'b' and tags.`night` = 'one' and tags.`git` = 'x=y'"
    assert filter_of("", ()) == ""
    for wrong in ("night", "=one", "a`=b", "a=b'"):
        with pytest.raises(CompareError, match=r"is not KEY=VALUE"):
            filter_of("", [wrong])


def test_unknown_metric_names_those_there_are(uri, tmp_path):
    with pytest.raises(
        CompareError, match=r"'comparison' logged 'accuracies'; there are \['calibration_error', 'compl"
    ):
        compare_runs(tracking_uri=uri, experiment="comparison", metric="accuracies", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_experiment_names_those_there_are(uri, tmp_path):
    with pytest.raises(TrackingError, match=r"no experiment 'comparisons' in sqlite.*; there are \[.*'comparison'"):
        compare_runs(tracking_uri=uri, experiment="comparisons", metric="completeness", out=tmp_path)


def test_filter_that_nothing_matches_or_that_cannot_be_read(uri, tracking, tmp_path):
    with pytest.raises(CompareError, match=r"no finished run of experiment 'comparison' matches tags\.`night` = 'two'"):
        compare_runs(tracking_uri=uri, experiment="comparison", metric="loss", out=tmp_path, tags=["night=two"])
    with pytest.raises(TrackingError, match=r"runs cannot be filtered by 'nonsense': "):
        fetch_runs(tracking, "comparison", where="nonsense")
