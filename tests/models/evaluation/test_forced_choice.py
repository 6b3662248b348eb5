"""Forced choices at equal S/N: cases solved by hand, the error from all permutations, the verdict on labels."""

from itertools import combinations

import numpy as np
import pytest

from shutterless.models.evaluation.forced_choice import ForcedChoice, forced_choice, judge_labels


def test_four_strips_by_hand():
    """Events of 0.9 and 0.7, others of 0.5 and 0.1: the means differ by 0.5, so three choices of four are right."""
    found = forced_choice(np.array([0.9, 0.7, 0.5, 0.1]), np.full(4, 6.0), np.array([1, 1, 0, 0]))
    assert found.share == pytest.approx(0.75)


@pytest.mark.parametrize(("event", "other", "share"), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.4, 0.4, 0.5)])
def test_a_sure_model_is_always_right_and_an_unsure_one_in_half(event, other, share):
    truth = np.arange(100) % 2 == 0
    found = forced_choice(np.where(truth, event, other), np.linspace(-9, 9, 100), truth)
    assert found.share == share


def test_error_is_that_of_all_labellings():
    """All ten ways to choose two events of five strips: their mean is 0.5, their standard deviation the error."""
    probability = np.array([0.9, 0.6, 0.5, 0.15, 0.1])
    shares, errors = [], []
    for chosen in combinations(range(5), 2):
        found = forced_choice(probability, np.full(5, 6.0), np.isin(np.arange(5), chosen))
        shares.append(found.share)
        errors.append(found.error)
    assert np.mean(shares) == pytest.approx(0.5)
    assert errors == pytest.approx([np.std(shares)] * 10)


def test_error_of_many_bins_is_the_scatter_of_labels_that_are_permuted_within_them():
    rng = np.random.default_rng(1)
    snr = np.repeat(np.arange(5.0, 15.0), 20)
    probability, truth = rng.random(200), rng.random(200) < np.repeat(np.linspace(0.1, 0.9, 10), 20)
    shares = []
    for _ in range(400):
        permuted = np.concatenate([rng.permutation(part) for part in truth.reshape(10, 20)])
        shares.append(forced_choice(probability, snr, permuted, per_bin=20).share)
    error = forced_choice(probability, snr, truth, per_bin=20).error
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * error / 20)  # the mean of 400
    assert np.std(shares) == pytest.approx(error, rel=0.15)


def test_the_snr_alone_is_chance_though_it_orders_nearly_all():
    """Events of 5 to 15 σ among noise that falls from 5: S/N orders 95 % of all pairs, half of equal ones."""
    rng = np.random.default_rng(2)
    snr = np.concatenate([rng.uniform(5, 15, 1000), 5 + rng.exponential(0.5, 2000)])
    truth = np.arange(3000) < 1000
    probability = (snr - 5) / 10
    all_together = forced_choice(probability, snr, truth, per_bin=3000)
    assert all_together.share > 0.5 + 20 * all_together.error
    alike = forced_choice(probability, snr, truth)
    assert abs(alike.share - 0.5) < 2 * alike.error


def test_bins_of_one_class_do_not_count():
    probability = np.array([0.9, 0.1, 0.2, 0.3])
    truth, snr = np.array([True, False, False, False]), np.array([5.0, 5.0, 50.0, 50.0])
    assert forced_choice(probability, snr, truth, per_bin=2).share == pytest.approx(0.9)
    nothing = forced_choice(probability, snr, np.zeros(4, bool))
    assert np.isnan([nothing.share, nothing.error]).all()
    assert np.isnan(forced_choice(probability[:0], snr[:0], truth[:0]).share)


def test_labels_that_taught_something_stand_out_of_the_controls():
    """Controls off by 0.01 each, an error of 0.01: Student's t for three is 3.18, and √2 × 3.18 × 0.01 is 0.045."""
    for share, learned in ((0.546, True), (0.544, False), (0.2, False)):
        found = judge_labels("cnn", ForcedChoice(share, 0.01), [0.51, 0.49, 0.51])
        assert found.learned is learned
    assert found.control_share == pytest.approx(0.5033, abs=1e-4)
    assert found.control_share_error == pytest.approx(0.02 / 3)  # a spread of 0.02 / √3, over √3


def test_controls_that_scatter_prove_nothing_whatever_their_mean():
    """Completeness of controls scattered so: 0.3 % in one run, 78 % in another."""
    assert not judge_labels("cnn", ForcedChoice(0.8, 0.01), [0.3, 0.7, 0.5]).learned
    assert not judge_labels(
        "cnn", ForcedChoice(0.8, 0.01), [0.8, 0.8, 0.8]
    ).learned  # the labels leak into the controls
    assert not judge_labels("cnn", ForcedChoice(0.75, 0.01), [0.52]).learned  # one control: t is 12.7


def test_several_seeds_with_true_labels_are_better_known():
    controls = [0.55, 0.45, 0.55, 0.45]
    assert not judge_labels("cnn", ForcedChoice(0.6, 0.01), controls).learned
    assert judge_labels("cnn", ForcedChoice(0.6, 0.01), controls, n_seeds=4).learned


def test_verdict_in_words():
    text = judge_labels("cnn", ForcedChoice(0.74, 0.012), [0.51, 0.49, 0.51]).text()
    assert text == (
        "cnn: of an event and a false trigger of equal S/N it chooses the event in 74.0 ± 1.2 % with true labels, in "
        "50.3 ± 0.7 % with shuffled ones (trained 3 times): it learned from them."
    )
    text = judge_labels("mlp", ForcedChoice(0.51, 0.012), [0.51]).text()
    assert text.endswith(
        "in 51.0 % with shuffled ones (trained 1 times): NO evidence that they taught it anything beyond the S/N."
    )
    unknown = judge_labels("mlp", ForcedChoice(np.nan, np.nan), [0.5, 0.5])
    assert not unknown.learned
    assert unknown.text().startswith("mlp: no event and false trigger of equal S/N")
