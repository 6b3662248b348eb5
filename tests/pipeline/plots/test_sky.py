import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from shutterless.pipeline.plots.sky import plot_event, plot_noise_by_magnitude, plot_pixels, plot_series, time_unit


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_pixels_lie_where_their_rows_and_columns_say_with_time_downward(ax):
    pixels = np.arange(6.0).reshape(2, 3)
    assert plot_pixels(pixels, ax, limits=(0, 5), first_row=100, first_column=20) is ax
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), pixels)
    assert image.get_extent() == [19.5, 22.5, 101.5, 99.5]
    bottom, top = ax.get_ylim()
    assert bottom > top  # row 100 above row 101
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Column (px)", "Row (time runs down)")
    assert image.colorbar.ax.get_ylabel() == "e⁻"


def test_binned_pixels_cover_the_rows_and_columns_that_they_stand_for(ax):
    plot_pixels(np.ones((2, 3)), ax, limits=(0, 5), bins=(4, 10))
    assert ax.images[0].get_extent() == [-0.5, 29.5, 7.5, -0.5]


def test_colour_bar_points_to_where_pixels_lie_beyond_it(ax):
    plot_pixels(np.array([[0.0, 3.0, 5.0]]), ax, limits=(0, 4))
    assert ax.images[0].colorbar.extend == "max"
    other = Figure().subplots()
    plot_pixels(np.array([[-1.0, np.nan, 9.0]]), other, limits=(0, 4))
    assert other.images[0].colorbar.extend == "both"


def test_soft_scale_is_linear_for_faint_and_logarithmic_for_bright_pixels(ax):
    plot_pixels(np.array([[0.0, 1e5]]), ax, limits=(0, 1e5), softening=10.0)
    norm = ax.images[0].norm
    one, two, thousand, ten_thousand, hundred_thousand = norm([1.0, 2.0, 1e3, 1e4, 1e5])
    assert two == pytest.approx(2 * one, rel=0.02)  # asinh u = u - u³/6
    assert hundred_thousand - ten_thousand == pytest.approx(ten_thousand - thousand, rel=0.01)
    ticks = ax.images[0].colorbar.get_ticks()
    assert ticks[0] == 0
    assert {100.0, 1e3, 1e4, 1e5} <= set(ticks)


def test_pixels_need_a_black_below_the_white(ax):
    with pytest.raises(ValueError, match=r"limits \(5, 5\) must be two values in rising order"):
        plot_pixels(np.ones((2, 2)), ax, limits=(5, 5))


def test_time_is_in_milliseconds_up_to_a_second_and_a_half():
    assert time_unit(0.02) == ("ms", 1e3)
    assert time_unit(30.0) == ("s", 1.0)


def test_event_is_drawn_in_its_time_with_points_that_average_rows(ax):
    seconds, flux = np.array([0.0, 0.01, 0.02, 0.03, 0.04]), np.array([1.0, 1.0, 3.0, 2.0, 1.0])
    measured = np.array([1.0, 2.0, 5.0, 1.0, 99.0])
    assert plot_event(seconds, flux, ax, measured=measured, rows_per_point=2) is ax
    points, line = ax.lines
    np.testing.assert_allclose(points.get_xdata(), [5.0, 25.0])
    np.testing.assert_allclose(points.get_ydata(), [1.5, 3.0])  # the fifth row has no partner
    np.testing.assert_allclose(line.get_xdata(), [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(line.get_ydata(), flux)
    assert line.get_drawstyle() == "steps-mid"  # few rows: each has its width
    assert ax.get_xlabel() == "Time (ms)"


def test_long_event_is_a_curve_in_seconds(ax):
    plot_event(np.arange(600) / 300, np.ones(600), ax)
    assert ax.lines[0].get_drawstyle() == "default"
    assert ax.get_xlabel() == "Time (s)"


def test_event_refuses_arrays_of_different_lengths(ax):
    with pytest.raises(ValueError, match=r"have \[3, 3, 2\] rows; they must have as many"):
        plot_event(np.arange(3), np.ones(3), ax, measured=np.ones(2))


def test_series_have_a_legend_where_there_are_several(ax):
    x = np.arange(4)
    plot_series(x, {"with": x, "without": 2 * x}, ax, xlabel="Column (px)", ylabel="Mean (e⁻)", steps=True)
    assert [line.get_label() for line in ax.lines] == ["with", "without"]
    assert len({line.get_color() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["with", "without"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Column (px)", "Mean (e⁻)")
    alone = Figure().subplots()
    plot_series(x, {"": x}, alone, xlabel="Row", ylabel="e⁻")
    assert alone.get_legend() is None


def test_noise_is_drawn_step_by_step_over_magnitude(ax):
    table = pd.DataFrame({8.75: [20.0, 1.2], 11.0: [3.0, np.nan]}, index=["constant level", "+ motion"])
    assert plot_noise_by_magnitude(table, ax) is ax
    before, after, theory = ax.lines
    np.testing.assert_array_equal(before.get_xdata(), [8.75, 11.0])
    np.testing.assert_array_equal(before.get_ydata(), [20.0, 3.0])
    np.testing.assert_array_equal(after.get_ydata(), [1.2, np.nan])
    assert theory.get_ydata()[0] == 1
    assert [line.get_label() for line in (before, after)] == ["constant level", "+ motion"]
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda ax: plot_pixels(np.empty((0, 3)), ax, limits=(0, 1)), "no pixels"),
        (lambda ax: plot_event(np.empty(0), np.empty(0), ax), "no rows"),
        (lambda ax: plot_series(np.empty(0), {}, ax, xlabel="", ylabel=""), "nothing to draw"),
        (lambda ax: plot_noise_by_magnitude(pd.DataFrame(), ax), "no streaks"),
    ],
)
def test_without_data_the_panel_says_so(ax, draw, text):
    assert texts(draw(ax)) == [text]
