"""Sweeps: search spaces, the same budget for all, and a killed sweep that ends like an undisturbed one."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.models.families import build_model, load_model
from shutterless.models.training.settings import TrainingError
from shutterless.pipeline.settings import SettingsError
from shutterless.workflows.cli import app
from shutterless.workflows.searching.detect import read_rates
from shutterless.workflows.settings.settings import FAMILY_NAMES, Settings, load_settings, resolved_toml
from shutterless.workflows.tracking import tracking as tracking_module
from shutterless.workflows.tracking.tracking import Tracking
from shutterless.workflows.training.sweeps import trials, tune
from shutterless.workflows.training.sweeps.figures import draw_sweep
from shutterless.workflows.training.sweeps.search_space import Choice, Fixed, Range, parse_space
from shutterless.workflows.training.sweeps.study import StudyPlan, TuneError, load_optuna, open_study
from shutterless.workflows.training.sweeps.tune import search_space, tune_families

TINY = """
[train]
seed = 5
n_examples = 120
[train.grid]
n_columns = 8
n_rows = 64
bins = [1, 4]
[tune]
families = ["cnn", "mlp"]
trials = 3
epochs = 2
startup_trials = 2
[tune.training]
learning_rate = { low = 1e-3, high = 3e-2, log = true }
batch_size = [8, 32]
weight_decay = 0.01
warmup_fraction = 0.1
[tune.cnn]
channels = [[4], [8, 8]]
kernel_rows = { low = 3, high = 5, step = 2 }
hidden_size = 8
dropout = 0.0
[tune.mlp]
hidden_sizes = [[], [4], [8, 4]]
dropout = 0.0
"""
KNOWN = {"kernel_rows": False, "hidden_size": False, "channels": True}


@pytest.fixture(scope="module")
def tiny_toml(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def tiny(tiny_toml):
    """Settings of a tiny sweep: ``tiny("tune.trials=5")``."""
    return lambda *changes: load_settings(tiny_toml, changes)


@pytest.fixture(scope="module", autouse=True)
def examples_drawn_once():
    """Sweeps of one store and equal training settings share their examples: drawing takes longer than training."""
    draw, known = tune.draw_training_set, {}

    def draw_once(store, settings, **options):
        key = str(store), str(settings)
        if key not in known:
            known[key] = draw(store, settings, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "draw_training_set", draw_once)
        yield


@pytest.fixture(scope="module")
def swept(training_store, tiny, tracking, tmp_path_factory):
    """A tracked sweep of two families that ran through."""
    out = tmp_path_factory.mktemp("swept") / "through"
    return tune_families(training_store, settings=tiny(), out=out, tracking=tracking)


def finished(table):
    """The trials that count, in a form that is equal after any interruption."""
    kept = table[table["state"] != "interrupted"].drop(columns=["trial", "seconds", "run_id"])
    return kept.reset_index(drop=True)


# ---- search spaces ----


def test_ranges_choices_and_fixed_values_are_read():
    space = parse_space(
        {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": [32, 64]},
        {"kernel_rows": {"low": 3, "high": 9, "step": 2}, "channels": [[8], [8, 16]], "hidden_size": 12},
        family="cnn",
        known=KNOWN,
    )
    assert space.train == {"learning_rate": Range(1e-4, 1e-2, log=True), "batch_size": Choice((32, 64))}
    assert space.arch["kernel_rows"] == Range(3, 9, step=2)
    assert space.arch["hidden_size"] == Fixed(12)
    given = {"train.learning_rate": 1e-3, "train.batch_size": "64", "arch.kernel_rows": 5, "arch.channels": "[8, 16]"}
    chosen = space.suggest(optuna.trial.FixedTrial(given))
    assert chosen["train"] == {"learning_rate": 1e-3, "batch_size": 64}
    assert chosen["arch"] == {"kernel_rows": 5, "channels": [8, 16], "hidden_size": 12}


@pytest.mark.parametrize(
    ("training", "architecture", "message"),
    [
        ({"learning_rat": 1e-3}, {}, r"\[tune.training\] learning_rat: unknown key; did you mean 'learning_rate'"),
        ({"epochs": [1, 2]}, {}, r"\[tune.training\] epochs: unknown key; known are \['batch_size', 'learning_rate'"),
        ({}, {"kernel_row": 3}, r"\[tune.cnn\] kernel_row: unknown key; did you mean 'kernel_rows'"),
        ({}, {"kernel_rows": {"lo": 3, "high": 5}}, r"kernel_rows: a range has no 'lo'; did you mean 'low'"),
        ({}, {"kernel_rows": {"low": 3}}, r"needs two numbers, low and high; found low = 3, high = None"),
        ({}, {"kernel_rows": {"low": 5, "high": 5}}, r"low 5 is not below high 5; for a fixed value write .* = 5"),
        ({"weight_decay": {"low": 0, "high": 1, "log": True}}, {}, r"logarithmic range begins above 0 and has no step"),
        ({}, {"kernel_rows": {"low": 3, "high": 9, "step": 0}}, r"step 0 is not above 0"),
        ({}, {"kernel_rows": []}, r"kernel_rows: no choices; give at least one"),
        ({}, {"channels": [8, 16]}, r"channels = \[8, 16\]: each choice is itself a list, .* \[\[8, 16\]\]"),
        ({"batch_size": [0, 8]}, {}, r"\[tune.training\] batch_size: \[batch_size\] = 0: input should be greater"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(training, architecture, message):
    with pytest.raises(SettingsError, match=message):
        parse_space(training, architecture, family="cnn", known=KNOWN)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_model_of_the_packaged_space_can_be_built(family):
    """Random points of the space, drawn by Optuna."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    space = search_space(family, load_settings().tune)
    for _ in range(4):
        build_model(family, arch=space.suggest(study.ask())["arch"])


def test_settings_of_a_sweep_survive_the_file(tiny, tmp_path):
    path = tmp_path / "resolved.toml"
    path.write_text(resolved_toml(tiny()))
    assert load_settings(path) == tiny()
    with pytest.raises(SettingsError, match=r"\[tune\] trial: unknown key; did you mean 'trials'"):
        load_settings(overrides=["tune.trial=3"])
    assert isinstance(tiny("tune.mlp.hidden_sizes=[[2]]"), Settings)
    assert tiny("tune.mlp.hidden_sizes=[[2]]").tune.mlp["hidden_sizes"] == [[2]]


# ---- pruning, and the next trial ----


def plan(tmp_path, **values):
    given = {"seed": 1, "startup_trials": 2, "warmup_epochs": 1, "recipe": {"a": "1"}, **values}
    return StudyPlan(tmp_path / "study.db", "cnn", **given)


def validation_row(loss):
    return {"split": "validation", "loss": loss}


def run_trial(study, losses):
    """Run a trial with the given loss after each epoch; return the number of epochs after which it was cut short."""
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    reporter = trials._Reporter(trial, len(losses), [])
    try:
        for loss in losses:
            reporter.on_history_row({"split": "train", "loss": 9.0})
            reporter.on_history_row(validation_row(loss))
    except optuna.TrialPruned:
        study.finish(trial, None, {})
        return sum(row["split"] == "validation" for row in reporter.rows)
    study.finish(trial, min(losses), {})
    return None


def test_trial_behind_the_median_is_cut_short_but_never_after_its_last_epoch(tmp_path):
    with open_study(plan(tmp_path)) as study:
        assert run_trial(study, [1.0, 0.5, 0.4]) is None
        assert run_trial(study, [3.0, 2.5, 2.0]) is None  # the first two are never cut short
        assert run_trial(study, [2.5, 0.1, 0.1]) == 1  # the median after one epoch is 2
        assert run_trial(study, [1.5, 1.0, 0.9]) is None
        assert run_trial(study, [0.9, 0.8, 5.0]) is None
        assert run_trial(study, [0.8, float("nan"), 0.7]) is None
        assert study.table()["state"].tolist() == ["complete", "complete", "pruned", *["complete"] * 3]
        assert study.best.number == 0
        assert study.table()["best_epoch"].tolist() == [3, 3, 1, 3, 2, 3]


def test_interrupted_trial_is_made_up_for_with_the_same_hyperparameters(tmp_path):
    with open_study(plan(tmp_path)) as study:
        for loss in (0.5, 0.4, 0.6):
            run_trial(study, [loss])
        left = study.ask().suggest_float("x", 0, 1)
    with open_study(plan(tmp_path)) as study:
        assert [trial.number for trial in study.drop_interrupted()] == [3]
        assert study.n_finished == 3
        assert study.ask().suggest_float("x", 0, 1) == left
        assert study.drop_interrupted()[0].number == 4
        assert study.table()["state"].tolist()[3:] == ["interrupted", "interrupted"]


def test_another_seed_draws_other_hyperparameters(tmp_path):
    drawn = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        with open_study(plan(tmp_path / str(seed), seed=seed)) as study:
            drawn.append(study.ask().suggest_float("x", 0, 1))
    assert drawn[0] != drawn[1]


def test_importance_finds_the_one_hyperparameter_that_matters(tmp_path):
    with open_study(plan(tmp_path, startup_trials=40)) as study:
        assert study.importance().empty
        for _ in range(24):
            trial = study.ask()
            x, y = (trial.suggest_float(name, 0, 1) for name in ("x", "y"))
            study.finish(trial, x + 0.01 * y, {})
        importance = study.importance().set_index("hyperparameter")["importance"]
    assert importance["x"] > 0.8
    assert importance.sum() == pytest.approx(1)


def test_without_optuna_the_extra_is_named(monkeypatch):
    load_optuna.cache_clear()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TuneError, match=r'needs Optuna; install it with: pip install "shutterless\[tune\]"'):
        load_optuna()
    load_optuna.cache_clear()


# ---- a whole sweep ----


def test_every_family_has_the_same_budget(swept):
    counts = swept.trials.groupby("family")["trial"].count()
    assert counts.to_dict() == {"cnn": 3, "mlp": 3}
    assert swept.trials["epochs"].max() == 2
    assert (swept.trials.loc[swept.trials["state"] == "complete", "epochs"] == 2).all()


def test_trials_differ_in_what_is_searched_and_share_what_is_not(swept):
    assert swept.trials["train.learning_rate"].between(1e-3, 3e-2).all()
    assert swept.trials["train.learning_rate"].nunique() == 6
    assert set(swept.trials["train.batch_size"]) <= {8, 32}
    assert set(swept.trials["train.weight_decay"]) == {0.01}
    assert set(swept.trials["arch.hidden_sizes"].dropna()) <= {"[]", "[4]", "[8, 4]"}
    assert swept.trials.loc[swept.trials["family"] == "mlp", "arch.channels"].isna().all()


@pytest.mark.parametrize("family", ["cnn", "mlp"])
def test_best_model_of_each_family_is_kept_as_train_leaves_one(swept, family):
    folder = swept.out / family
    files = {"config.json", "model.safetensors", "history.parquet", "training.json", "rates.json", "trial.json"}
    files |= {"README.md"}
    assert {path.name for path in folder.iterdir()} == files
    own = swept.trials[(swept.trials["family"] == family) & (swept.trials["state"] == "complete")]
    best = own.loc[own["validation_loss"].astype(float).idxmin()]
    note = json.loads((folder / "trial.json").read_text())
    assert (note["trial"], note["validation_loss"]) == (best["trial"], best["validation_loss"])
    history = pd.read_parquet(folder / "history.parquet").query("split == 'validation'")
    assert history["loss"].min() == best["validation_loss"]
    model = load_model(folder)
    assert model.config.training["learning_rate"] == best["train.learning_rate"]
    assert (model.config.calibration_slope, model.config.calibration_intercept) != (1.0, 0.0)
    assert sum(p.numel() for p in model.parameters()) == best["n_parameters"]
    assert read_rates(folder).live_hours > 0


def test_tables_and_figure_lie_beside_the_models(swept):
    names = {path.name for path in swept.out.iterdir()}
    assert {"tune.parquet", "importance.parquet", "tune.png", "settings.toml", "study.db", "cnn", "mlp"} <= names
    assert list((swept.out / "trials").iterdir()) == []
    stored = pd.read_parquet(swept.out / "tune.parquet")
    assert stored["validation_loss"].tolist() == swept.trials["validation_loss"].tolist()
    lines = swept.text().splitlines()
    assert lines[0].split() == ["family", "trials", "cut", "short", "best", "loss", "parameters", "trained", "in"]
    assert {line.split()[0] for line in lines[1:3]} == {"cnn", "mlp"}
    assert "train.learning_rate = " in lines[-1]


def test_runs_of_the_trials_are_nested_in_that_of_the_family(swept, tracking):
    import mlflow

    client = mlflow.MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name("tune").experiment_id
    runs = {run.info.run_id: run for run in client.search_runs([experiment], f"tags.sweep = '{swept.sweep}'")}
    parents = {key: run for key, run in runs.items() if run.data.tags["role"] == "sweep"}
    assert sorted(run.data.tags["family"] for run in parents.values()) == ["cnn", "mlp"]
    assert set(runs) == {*parents, *swept.trials["run_id"]}
    for row in swept.trials.to_dict("records"):
        run = runs[row["run_id"]]
        parent = parents[run.data.tags["mlflow.parentRunId"]]
        assert parent.data.tags["family"] == row["family"]
        assert (run.data.tags["state"], run.info.status) == (row["state"], "FINISHED")
        assert float(run.data.params["train.learning_rate"]) == row["train.learning_rate"]
        assert int(run.data.params["arch.n_parameters"]) == row["n_parameters"]
        assert len(client.get_metric_history(row["run_id"], "validation.loss")) == row["epochs"]
        is_best = str(row["trial"]) == parent.data.tags["best_trial"]
        assert run.data.tags["best"] == str(is_best).lower()
        assert bool(run.outputs and run.outputs.model_outputs) == is_best


class _Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def test_killed_sweep_goes_on_and_ends_like_one_that_was_not(
    swept, training_store, tiny, tracking, tmp_path, monkeypatch
):
    """The sweep ends in the second trial, then in the third, and is run again each time."""
    fit, calls = trials.fit_detector, []

    def fit_or_die(*arguments, **options):
        calls.append(1)
        if len(calls) in (2, 4):
            raise _Killed
        return fit(*arguments, **options)

    monkeypatch.setattr(trials, "fit_detector", fit_or_die)
    out, settings = tmp_path / "killed", tiny('tune.families=["cnn"]')
    for _ in range(2):
        with pytest.raises(_Killed):
            tune_families(training_store, settings=settings, out=out, tracking=tracking)
    result = tune_families(training_store, settings=settings, out=out, tracking=tracking)
    assert result.trials["state"].value_counts()["interrupted"] == 2
    expected = finished(swept.trials[swept.trials["family"] == "cnn"])[finished(result.trials).columns]
    pd.testing.assert_frame_equal(finished(result.trials), expected, check_dtype=False)
    kept, through = (folder / "cnn" / "model.safetensors" for folder in (out, swept.out))
    assert kept.read_bytes() == through.read_bytes()
    _check_killed_runs(tracking, result)


def _check_killed_runs(tracking, result):
    """Interrupted trials are marked as killed, and the family still has one run."""
    import mlflow

    client = mlflow.MlflowClient(tracking.uri)
    left = result.trials[result.trials["state"] == "interrupted"]
    assert {client.get_run(run_id).info.status for run_id in left["run_id"]} == {"KILLED"}
    parents = {client.get_run(run_id).data.tags["mlflow.parentRunId"] for run_id in result.trials["run_id"]}
    assert len(parents) == 1
    assert {client.get_run(run_id).info.status for run_id in parents} == {"FINISHED"}


def test_finished_sweep_is_not_repeated_and_more_trials_make_it_longer(training_store, tiny, tmp_path, monkeypatch):
    small = ('tune.families=["mlp"]', "tune.trials=2")
    first = tune_families(training_store, settings=tiny(*small), out=tmp_path / "sweep")
    with monkeypatch.context() as patch:
        patch.setattr(tune, "draw_training_set", lambda *_, **__: pytest.fail("nothing is left to train"))
        again = tune_families(training_store, settings=tiny(*small), out=tmp_path / "sweep")
    pd.testing.assert_frame_equal(again.trials, first.trials)
    longer = tune_families(training_store, settings=tiny(*small, "tune.trials=4"), out=tmp_path / "sweep")
    pd.testing.assert_frame_equal(longer.trials[:2], first.trials)
    assert len(longer.trials) == 4
    note = json.loads((tmp_path / "sweep" / "mlp" / "trial.json").read_text())
    assert note["trial"] == longer.best["trial"].iloc[0]
    with pytest.raises(TuneError, match=r"begun with tune.mlp.dropout = .*0\.0.*, now it is .*0\.5.*another --out"):
        tune_families(training_store, settings=tiny(*small, "tune.mlp.dropout=0.5"), out=tmp_path / "sweep")
    with pytest.raises(TuneError, match=r"begun with train.n_examples = 120, now it is 99"):
        tune_families(training_store, settings=tiny(*small, "train.n_examples=99"), out=tmp_path / "sweep")


def test_unusable_trials_count_and_say_why(training_store, tiny, tmp_path, monkeypatch):
    """An even kernel cannot be centred; a loss that was never finite leaves no model either."""
    fit = trials.fit_detector

    def diverge(task, training_set, settings, *arguments, **options):
        if settings.batch_size == 8:
            raise TrainingError("the validation loss was never finite")
        return fit(task, training_set, settings, *arguments, **options)

    monkeypatch.setattr(trials, "fit_detector", diverge)
    changes = (
        "tune.trials=6",
        "tune.epochs=1",
        "tune.cnn.kernel_rows=[3, 4, 5]",
        "tune.training.batch_size=[8, 16, 32]",
    )
    settings = tiny('tune.families=["cnn"]', *changes)
    result = tune_families(training_store, settings=settings, out=tmp_path / "sweep")
    unusable = result.trials[result.trials["state"] == "unusable"]
    usable = result.trials[result.trials["state"] != "unusable"]
    assert 1 <= len(unusable) <= 5
    assert ((unusable["arch.kernel_rows"] == 4) | (unusable["train.batch_size"] == 8)).all()
    assert ((usable["arch.kernel_rows"] != 4) & (usable["train.batch_size"] != 8)).all()
    even = unusable[unusable["arch.kernel_rows"] == 4]["reason"]
    assert even.str.contains("kernel_rows 4 is even").all()
    assert len(result.trials) == 6


def test_sweep_without_any_usable_trial_is_an_error_with_the_reason(training_store, tiny, tmp_path):
    settings = tiny('tune.families=["cnn"]', "tune.trials=1", "tune.cnn.kernel_rows=4")
    with pytest.raises(TuneError, match=r"no trial of cnn was completed: no cnn can be built with .* is even; give"):
        tune_families(training_store, settings=settings, out=tmp_path / "sweep")


def _never_finite(*_, **__):
    raise TrainingError("the validation loss was never finite")


def test_model_that_is_gone_is_named(training_store, tiny, tmp_path, monkeypatch):
    settings = tiny('tune.families=["mlp"]', "tune.trials=1", "tune.epochs=1")
    tune_families(training_store, settings=settings, out=tmp_path / "sweep")
    (tmp_path / "sweep" / "mlp" / "config.json").unlink()
    more = replace(settings, tune=replace(settings.tune, trials=2))
    monkeypatch.setattr(trials, "fit_detector", _never_finite)
    with pytest.raises(TuneError, match=r"mlp, the model of trial 0, is gone; begin again with another --out"):
        tune_families(training_store, settings=more, out=tmp_path / "sweep")


def test_folder_of_something_else_or_of_a_running_sweep_is_refused(training_store, tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TuneError, match=r"is not empty and holds no sweep; choose another with --out"):
        tune_families(training_store, settings=tiny(), out=tmp_path)
    busy = tmp_path / "busy"
    busy.mkdir()
    with (busy / "tune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TuneError, match=r"another `shutterless tune` is at work in .*busy; wait, or"):
            tune_families(training_store, settings=tiny(), out=busy)


# ---- the command and the picture ----


def test_command_passes_settings_and_prints_the_result(monkeypatch, tmp_path):
    calls = []

    def stand_in(*arguments, **options):
        calls.append((arguments, options))
        return tune.TuneResult(tmp_path, _made_up_trials(), pd.DataFrame(), "sweep-123abc")

    monkeypatch.setattr(tune, "tune_families", stand_in)
    monkeypatch.setattr(tracking_module, "open_tracking", lambda uri: Tracking(uri, None))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    arguments = ["tune", tmp_path, "--set", "tune.trials=7", "--out", tmp_path / "s", "-q"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert calls[0][1]["settings"].tune.trials == 7
    assert f"sweep: {tmp_path / 's'} (tracked runs: sweep = sweep-123abc)" in done.stdout
    assert done.stdout.splitlines()[1].split() == ["cnn", "3", "1", "0.5000", "1,000", "30", "s"]


def _made_up_trials():
    rows = [
        ("cnn", 0, "complete", 0.7, 1, 1, 900, 10.0),
        ("cnn", 1, "interrupted", np.nan, np.nan, 0, np.nan, np.nan),
        ("cnn", 2, "complete", 0.5, 1, 1, 1000, 15.0),
        ("cnn", 3, "pruned", 0.9, 1, 1, 1100, 5.0),
    ]
    columns = ["family", "trial", "state", "validation_loss", "best_epoch", "epochs", "n_parameters", "seconds"]
    return pd.DataFrame(rows, columns=columns).assign(**{"train.learning_rate": 0.01})


def test_figure_shows_trials_in_order_and_the_best_so_far():
    figure = draw_sweep(_made_up_trials(), pd.DataFrame(columns=["family", "hyperparameter", "importance"]))
    order, sizes, importance = figure.axes
    best = next(line for line in order.lines if line.get_drawstyle() == "steps-post")
    assert best.get_xdata().tolist() == [1, 2, 3]  # the interrupted trial leaves no gap
    assert best.get_ydata().tolist() == [0.7, 0.5, 0.5]
    assert order.get_ylabel() == sizes.get_ylabel() == "Validation loss (nats per strip)"
    assert "completed trials" in importance.texts[0].get_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sweep_survives_sigkill(swept, training_store, tiny_toml, tmp_path):
    """The command is killed in the middle and run again; it has the trials of an undisturbed one."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "shutterless.workflows.cli", "tune", str(training_store), "--config"]
    command += [str(tiny_toml), "--out", str(out), "--tracking", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    printed = ""
    while "trial 2 of 3" not in printed:
        printed += process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "tune.parquet").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trials are done already" in done.stderr
    pd.testing.assert_frame_equal(finished(pd.read_parquet(out / "tune.parquet")), finished(swept.trials))
