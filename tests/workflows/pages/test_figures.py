import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from shutterless.workflows.pages.figures import (
    detector_styles,
    plot_comparison,
    plot_completeness,
    plot_learning_curves,
    plot_reliability,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def bars_of(container):
    """Ends of the error bars, shape (n, 2, 2)."""
    return np.array(container.lines[2][0].get_segments())


def completeness_table():
    one = {
        "rho_low": [6.0, 4.0],
        "rho_high": [8.0, 6.0],
        "completeness": [0.5, 0.1],
        "low": [0.4, 0.05],
        "high": [0.7, 0.2],
    }
    return pd.DataFrame({"detector": "cnn", **one})


def test_completeness_draws_values_and_bounds_in_order_of_rho(ax):
    assert plot_completeness(completeness_table(), ax) is ax
    (drawn,) = ax.containers
    np.testing.assert_allclose(drawn.lines[0].get_xydata(), [[5, 0.1], [7, 0.5]])
    np.testing.assert_allclose(bars_of(drawn)[:, :, 1], [[0.05, 0.2], [0.4, 0.7]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Optimal S/N ρ of the event", "Completeness")


def test_optimum_is_one_half_at_eta(ax):
    plot_completeness(completeness_table(), ax, eta=6.0)
    optimum = ax.lines[-1]
    rho, value = optimum.get_data()
    assert optimum.get_linestyle() == "--"
    assert np.interp(6.0, rho, value) == pytest.approx(0.5, abs=1e-4)
    assert np.interp(7.0, rho, value) == pytest.approx(0.8413, abs=1e-3)  # Φ(1)


def test_detectors_of_one_bin_stay_within_it(ax):
    table = pd.concat([completeness_table().assign(detector=name) for name in ("cnn", "mlp", "transformer")])
    plot_completeness(table, ax)
    x = np.array([drawn.lines[0].get_xdata()[0] for drawn in ax.containers])
    assert len(set(x)) == 3
    assert np.abs(x - 5).max() <= 0.25 * 2 / 2


def test_open_last_bin_stands_at_its_edge(ax):
    table = completeness_table().assign(rho_high=[np.inf, 6.0])
    plot_completeness(table, ax)
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), [5, 6])


def test_comparison_puts_the_best_on_top(ax):
    summary = pd.DataFrame({"detector": ["a", "best", "unknown"], "completeness": [0.2, 0.6, np.nan]})
    summary["completeness_low"] = [0.1, 0.5, np.nan]
    summary["completeness_high"] = [0.4, 0.65, np.nan]
    assert plot_comparison(summary, ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "best"]
    assert [drawn.lines[0].get_xdata()[0] for drawn in ax.containers] == [0.2, 0.6]
    np.testing.assert_allclose(bars_of(ax.containers[1])[0, :, 0], [0.5, 0.65])
    assert ax.get_xlabel() == "Completeness over all counted events"


def test_learning_curves_draw_both_splits(ax):
    history = pd.DataFrame(
        {"step": [10, 0, 10], "split": ["train", "train", "validation"], "loss": [0.4, 0.9, 0.5], "epoch": 0}
    )
    assert plot_learning_curves(history, ax) is ax
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn == {"train": [[0, 0.9], [10, 0.4]], "validation": [[10, 0.5]]}
    assert ax.get_xlabel() == "Optimiser step"


def test_reliability_leaves_out_empty_bins_and_draws_the_diagonal(ax):
    table = pd.DataFrame({"detector": "mlp", "n": [100, 0], "mean_probability": [0.2, np.nan]})
    table["observed_fraction"] = [0.25, np.nan]
    assert plot_reliability(table, ax) is ax
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xydata(), [[0.2, 0.25]])
    low, high = bars_of(ax.containers[0])[0, :, 1]
    assert low < 0.25 < high
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Mean predicted probability", "Observed fraction of events")


def test_every_detector_has_a_look_of_its_own_whoever_stands_beside_it():
    styles = detector_styles(["mine", "mlp", "yours", "mine"])
    assert len({style["color"] for style in styles.values()}) == len(styles) == 3
    assert styles["mlp"] == detector_styles(["mlp"])["mlp"]


@pytest.mark.parametrize(
    ("draw", "columns", "note"),
    [
        (plot_completeness, ["detector", "rho_low", "rho_high", "completeness", "low", "high"], "no events"),
        (plot_comparison, ["detector", "completeness", "completeness_low", "completeness_high"], "no detectors"),
        (plot_learning_curves, ["step", "split", "loss"], "no steps"),
        (plot_reliability, ["detector", "n", "mean_probability", "observed_fraction"], "no strips"),
    ],
)
def test_nothing_to_draw_is_said(ax, draw, columns, note):
    assert draw(pd.DataFrame({name: pd.Series(dtype=float) for name in columns}), ax) is ax
    assert [text.get_text() for text in ax.texts] == [note]
