"""Training learns an easy task, learns nothing from shuffled labels, and repeats itself to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from transformers import TrainerCallback

from shutterless.models.evaluation.forced_choice import forced_choice, judge_labels
from shutterless.models.evaluation.platt import roc_area
from shutterless.models.families import build_model, load_model
from shutterless.models.scoring import score_strips
from shutterless.models.training.fit import (
    HISTORY_COLUMNS,
    HistoryRecorder,
    _datasets,
    accuracy_and_auc,
    fit_model,
)
from shutterless.models.training.settings import TrainingError, TrainingSettings
from shutterless.pipeline.tokens import GridError, TokenGrid

from ..conftest import GRID, SMALL_ARCH, make_toy

SHORT = TrainingSettings(epochs=2, batch_size=64, log_steps=4, device="cpu")


def trained(family, toy, settings, **options):
    return fit_model(build_model(family, GRID, SMALL_ARCH[family], seed=1), toy, settings, **options)


@pytest.fixture(scope="module")
def learned(toy):
    settings = TrainingSettings(epochs=8, batch_size=32, learning_rate=3e-3, device="cpu")
    return {family: trained(family, toy, settings) for family in SMALL_ARCH}


def test_learns_the_easy_task(family, learned):
    """Scored on new strips of another seed; onset within a patch (4 of 24 rows), duration known."""
    fresh = make_toy(400, seed=77)
    scores = score_strips(learned[family].model, fresh.strips, device="cpu")
    events = fresh.labels.is_event > 0
    assert roc_area(scores["event_logit"], events) > 0.95
    assert (scores["kind"][events] == "burst").mean() > 0.85
    assert np.median(np.abs(scores["onset"] - fresh.labels.onset)[events]) < 4 / 24
    assert np.median(np.abs(scores["log2_duration"] - 2)[events]) < 0.5


def choices_of(model):
    """Forced choices on new strips; the toy's S/N feature is random."""
    fresh = make_toy(400, seed=77)
    probability = expit(score_strips(model, fresh.strips, device="cpu")["event_logit"].to_numpy())
    return forced_choice(probability, fresh.strips.features[:, 0], fresh.labels.is_event)


def test_true_labels_teach_and_shuffled_ones_do_not(family, toy, learned):
    """Random weights and those trained on shuffled labels choose at chance; those trained on true labels do not."""
    untrained, shuffled = [], []
    for seed in range(4):
        model = build_model(family, GRID, SMALL_ARCH[family], seed=seed)
        untrained.append(choices_of(model).share)
        settings = replace(SHORT, shuffled_labels=True, learning_rate=1e-3, epochs=1, seed=seed)
        shuffled.append(choices_of(fit_model(model, toy, settings).model).share)
    for controls in (untrained, shuffled):
        found = judge_labels(family, choices_of(learned[family].model), controls)
        assert found.learned, found
        assert found.share > 0.85
        assert abs(found.control_share - 0.5) < 4 * found.control_share_error, controls
    one_more = build_model(family, GRID, SMALL_ARCH[family], seed=9)
    assert not judge_labels(family, choices_of(one_more), untrained).learned


def test_a_control_sees_no_true_label(toy):
    """Labels are permuted within training and within validation, so that the truth chooses no epoch."""
    train, validation = np.arange(900), np.arange(900, 1200)
    parts = _datasets(toy, train, validation, replace(SHORT, shuffled_labels=True))
    for dataset, index in zip(parts, (train, validation), strict=True):
        permuted, true = dataset.labels["is_event"].numpy(), toy.labels.is_event[index]
        assert permuted.sum() == true.sum()
        assert 0.4 < (permuted == true).mean() < 0.6


def test_same_seed_same_weights_to_the_bit(family, toy):
    settings = replace(SHORT, max_steps=6)
    first, second = (trained(family, toy, settings) for _ in range(2))
    for name, values in first.model.state_dict().items():
        assert torch.equal(values, second.model.state_dict()[name])
    other = trained(family, toy, replace(settings, seed=9)).model.state_dict()
    assert any(not torch.equal(values, other[name]) for name, values in first.model.state_dict().items())


def test_history(learned):
    history = learned["mlp"].history
    assert tuple(history.columns) == HISTORY_COLUMNS
    validation = history[history["split"] == "validation"]
    assert validation["epoch"].tolist() == list(range(1, 9))
    assert history["step"].is_monotonic_increasing
    assert (history["seconds"].diff().dropna() >= 0).all()
    assert set(history["split"]) == {"train", "validation"}
    assert history[["loss", "accuracy", "auc"]].notna().all(axis=None)
    assert validation["loss"].iloc[-1] < 0.5 * validation["loss"].iloc[0]


def test_best_epoch_is_kept(learned):
    result = learned["cnn"]
    validation = result.history.query("split == 'validation'")
    assert result.best_epoch == validation.loc[validation["loss"].idxmin(), "epoch"]
    assert result.model.config.training["best_epoch"] == result.best_epoch


def test_kept_weights_are_those_of_the_best_epoch(toy):
    """With a rate that wrecks the model later, the kept model still has the best validation AUC of the history."""
    result = trained("mlp", toy, replace(SHORT, epochs=4, learning_rate=0.5, warmup_fraction=0.9, gradient_clip=1e3))
    best = result.history.query("split == 'validation'").sort_values("loss").iloc[0]
    scores = score_strips(result.model, toy.strips[result.validation_index], device="cpu")
    truth = toy.labels.is_event[result.validation_index]
    assert roc_area(scores["event_logit"], truth) == pytest.approx(best["auc"], abs=1e-3)


def test_split_is_by_group(learned, toy):
    result = learned["mlp"]
    assert not set(toy.groups[result.training_index]) & set(toy.groups[result.validation_index])


def test_trained_model_survives_saving(family, learned, toy, tmp_path):
    model = learned[family].model
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = load_model(tmp_path)
    expected = score_strips(model, toy.strips[:50], device="cpu")
    assert score_strips(loaded, toy.strips[:50], device="cpu").equals(expected)
    assert loaded.config.training == model.config.training


def test_training_scales_its_inputs(learned, toy):
    """Profiles of 10 to 400σ are scaled to mean 0 with values stored in the weights: asinh(100) is 5.3."""
    assert learned["mlp"].model.scaling.profile_centre.item() == pytest.approx(5.8, abs=0.3)


def test_caller_keeps_its_random_state(toy):
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained("mlp", toy, replace(SHORT, max_steps=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_callbacks_see_every_row(toy):
    class Live(TrainerCallback):
        def __init__(self):
            self.rows, self.steps = [], 0

        def on_history_row(self, row):
            self.rows.append(row)

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    live = Live()
    result = trained("mlp", toy, replace(SHORT, max_steps=5), callbacks=[live])
    assert live.steps == 5
    assert live.rows == result.history.to_dict("records")


def test_nothing_is_written_or_printed(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained("mlp", toy, replace(SHORT, max_steps=2))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_accuracy_and_auc_by_hand():
    """Logits 2, −1, −2, 1 for event, event, none, none: two right of four, three of four pairs in order."""
    found = accuracy_and_auc(np.array([2, -1, -2, 1.0]), np.array([1, 1, 0, 0.0]))
    assert found == {"accuracy": 0.5, "auc": 0.75}


def test_other_grid_is_refused(toy):
    model = build_model("mlp", TokenGrid(), {"hidden_sizes": []})
    with pytest.raises(GridError, match=r"the training set has .*n_columns=5.*expects TokenGrid.*n_columns=16"):
        fit_model(model, toy, SHORT)


def test_settings_are_checked():
    with pytest.raises(TrainingError, match=r"\[epochs\] = 0: .* equal to 1; \[max_steps\] = -1: .* equal to 1"):
        TrainingSettings(epochs=0, max_steps=-1)
    with pytest.raises(TrainingError, match=r"\[validation_fraction\] = 1\.5: input should be less than 1"):
        TrainingSettings(validation_fraction=1.5)
    with pytest.raises(TrainingError, match=r"\[device\] = 'tpu': input should be 'auto' or 'cpu'"):
        TrainingSettings(device="tpu")


def test_loss_that_is_never_finite_is_an_error(model):
    with pytest.raises(TrainingError, match="validation loss was never finite"):
        HistoryRecorder(model).restore_best()
