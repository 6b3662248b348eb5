"""Synthetic learning curves of each case, with noise and several seeds, and three of real trainings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.models.families import build_model
from shutterless.models.training.fit import fit_model
from shutterless.models.training.learning_curves import (
    BELOW_BY_DROPOUT,
    CONVERGED,
    EASIER_VALIDATION,
    LATE_GENERALISATION,
    OVER_FITTING,
    RATE_TOO_HIGH,
    RATE_TOO_LOW,
    STILL_LEARNING,
    TOO_SHORT,
    UNSTABLE,
    diagnose,
)
from shutterless.models.training.settings import TrainingSettings

SEEDS = range(8)
N_STEPS, LOG_STEPS, N_EPOCHS = 1000, 20, 10


def make_history(train, validation, seed=0, noise=0.015, n_epochs=N_EPOCHS):
    """Rows of a training of 1,000 steps: functions of the fraction of the steps; training rows are means over 20."""
    rng = np.random.default_rng(seed)
    step = np.arange(LOG_STEPS, N_STEPS + 1, LOG_STEPS)
    loss = train((step - LOG_STEPS / 2) / N_STEPS) * (1 + noise * rng.standard_normal(len(step)))
    epochs = np.arange(1, n_epochs + 1) * N_STEPS // n_epochs
    judged = validation(epochs / N_STEPS) * (1 + noise / 3 * rng.standard_normal(n_epochs))
    return pd.concat(
        [
            pd.DataFrame({"step": step, "split": "train", "loss": loss}),
            pd.DataFrame({"step": epochs, "split": "validation", "loss": judged}),
        ]
    )


def decay(x, tau, start=2.5, floor=0.4):
    return floor + (start - floor) * np.exp(-np.asarray(x) / tau)


def sure(name, train, validation, **more):
    """The diagnosis is this one for every seed; the last of them is returned."""
    for seed in SEEDS:
        found = diagnose(make_history(train, validation, seed, **more))
        assert found.name == name, (seed, found)
    return found


def test_curve_that_still_falls():
    found = sure(STILL_LEARNING, lambda x: decay(x, 0.5), lambda x: decay(x, 0.5) + 0.05)
    assert "validation fell by" in found.evidence
    assert "train longer" in found.evidence


def test_curve_that_is_flat():
    found = sure(CONVERGED, lambda x: decay(x, 0.08), lambda x: decay(x, 0.08) + 0.03)
    assert "ended at 0.4" in found.evidence


@pytest.mark.parametrize("n_epochs", [3, 4])
def test_three_epochs_are_enough(n_epochs):
    sure(STILL_LEARNING, lambda x: decay(x, 0.5), lambda x: decay(x, 0.5) + 0.05, n_epochs=n_epochs)
    sure(CONVERGED, lambda x: decay(x, 0.08), lambda x: decay(x, 0.08) + 0.03, n_epochs=n_epochs)


def test_over_fitting_begins_where_validation_is_lowest():
    """Validation has its minimum at 0.4 of 1,000 steps, and epochs end every 100."""
    for seed in SEEDS:
        found = diagnose(make_history(lambda x: decay(x, 0.3, floor=0.05), lambda x: 0.6 + 3 * (x - 0.4) ** 2, seed))
        assert found.name == OVER_FITTING
        assert found.step in (300, 400, 500)
    assert found.title == f"over-fitting from step {found.step}"
    assert f"lowest at step {found.step}" in found.evidence


def test_spikes_from_which_the_loss_comes_back():
    def spiky(x):
        return decay(x, 0.15) + 0.9 * ((np.asarray(x) * 50 % 12).astype(int) == 11)

    found = sure(UNSTABLE, spiky, lambda x: decay(x, 0.15) + 0.03)
    assert "the training loss jumped 4 times" in found.evidence
    assert found.step == 240  # the row of steps 220 to 240 is the twelfth


def test_scatter_that_batches_do_not_explain():
    rng = np.random.default_rng(1)
    sure(UNSTABLE, lambda x: decay(x, 0.1) * rng.uniform(0.5, 1.5, np.shape(x)), lambda x: decay(x, 0.1) + 0.1)


def test_loss_that_rises_above_its_beginning():
    found = sure(RATE_TOO_HIGH, lambda x: 2.5 + 20 * np.sin(3 * np.asarray(x)), lambda x: 8.0 + 0 * x)
    assert "the training loss rose from" in found.evidence


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_loss_that_is_not_finite(lost):
    history = make_history(lambda x: decay(x, 0.3), lambda x: decay(x, 0.3))
    history.loc[(history["split"] == "train") & (history["step"] >= 400), "loss"] = lost
    found = diagnose(history)
    assert (found.name, found.step) == (RATE_TOO_HIGH, 400)
    assert found.evidence == "the train loss is not finite at step 400"


@pytest.mark.parametrize("cosine", [False, True])
def test_small_and_steady_fall(cosine):
    """The fall is linear with a constant rate, and follows the sum of the rates under a cosine."""

    def fall(x):
        done = 0.5 * (np.asarray(x) + np.sin(np.pi * np.asarray(x)) / np.pi) * 2 if cosine else np.asarray(x)
        return 2.5 * (1 - 0.08 * done)

    found = sure(RATE_TOO_LOW, fall, fall)
    assert "only" in found.evidence


def test_plateau_from_the_beginning_is_not_a_rate_too_low():
    """With nothing to learn, as with shuffled labels: a quick fall of a tenth, then a plateau."""
    sure(CONVERGED, lambda x: decay(x, 0.03, start=1.0, floor=0.9), lambda x: 0.91 + 0 * x)


def test_validation_below_training():
    found = sure(BELOW_BY_DROPOUT, lambda x: decay(x, 0.08) + 0.1, lambda x: decay(x, 0.08))
    assert "validation is below training in 5 of the last 5 epochs" in found.evidence
    assert "otherwise converged" in found.evidence


def test_validation_below_training_does_not_hide_that_it_still_learns():
    found = sure(STILL_LEARNING, lambda x: decay(x, 0.5) + 0.1, lambda x: decay(x, 0.5))
    assert "dropout" in found.evidence


def test_what_is_known_of_dropout_is_used():
    history = make_history(lambda x: decay(x, 0.08) + 0.1, lambda x: decay(x, 0.08))
    assert "with dropout of 0.05, mirrored strips" in diagnose(history, dropout=0.05).evidence
    without = diagnose(history, dropout=0)
    assert without.name == EASIER_VALIDATION
    assert "they leaked into training" in without.evidence


@pytest.mark.parametrize("hump", [0.0, 0.8])
def test_generalisation_long_after_training_was_done(hump):
    """Training converges at a tenth of the steps; validation stays high, or rises first, and falls at 0.7."""

    def validation(x):
        return 0.1 + 1.9 / (1 + np.exp((x - 0.7) / 0.03)) + hump * np.sin(np.pi * np.clip(x / 0.7, 0, 1))

    for seed in SEEDS:
        history = make_history(lambda x: decay(x, 0.04, floor=0.02), validation, seed, n_epochs=20)
        found = diagnose(history)
        assert found.name == LATE_GENERALISATION
        assert 650 <= found.step <= 800
    assert "stopped early" in found.evidence


def test_curve_without_validation_or_training_rows():
    history = make_history(lambda x: decay(x, 0.5), lambda x: decay(x, 0.5))
    for split in ("train", "validation"):
        assert diagnose(history[history["split"] == split]).name == STILL_LEARNING


def test_too_few_rows():
    history = make_history(lambda x: decay(x, 0.5), lambda x: decay(x, 0.5)).query("step < 50")
    found = diagnose(history)
    assert (found.name, found.evidence) == (TOO_SHORT, "2 training and 0 validation rows; three are needed")
    assert diagnose(history.iloc[:0]).name == TOO_SHORT


@pytest.mark.parametrize(
    ("learning_rate", "names"),
    [(1e-2, {CONVERGED, STILL_LEARNING}), (1.0, {RATE_TOO_HIGH}), (3e-5, {RATE_TOO_LOW})],
)
def test_real_trainings_with_a_sensible_a_much_too_high_and_a_much_too_low_rate(toy, grid, learning_rate, names):
    model = build_model("mlp", grid, {"hidden_sizes": [48], "dropout": 0.0}, seed=3)
    settings = TrainingSettings(epochs=8, batch_size=96, learning_rate=learning_rate, log_steps=2, seed=1)
    found = diagnose(fit_model(model, toy, settings).history, dropout=0.0)
    assert found.name in names, found
