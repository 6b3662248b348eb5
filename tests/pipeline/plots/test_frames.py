import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from shutterless.pipeline.plots.frames import (
    plot_column_noise,
    plot_frame,
    plot_light_curve,
    plot_masked,
    plot_noise_over_time,
    plot_pickup,
    plot_streaks,
    plot_strip,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_frame_shows_the_pixels_with_time_downward(ax):
    pixels = np.arange(12.0).reshape(4, 3)
    assert plot_frame(pixels, ax, first_row=100, first_column=20) is ax
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), pixels)
    assert image.get_extent() == [19.5, 22.5, 103.5, 99.5]
    bottom, top = ax.get_ylim()
    assert bottom > top  # row 100 above row 103
    assert ax.get_xlabel() == "Column x (pixel, read order)"
    assert ax.get_ylabel() == "File row (read order; time runs down)"
    assert image.colorbar.ax.get_ylabel() == "Pixel value (ADU)"


def test_frame_of_every_fourth_row_stands_at_its_file_rows(ax):
    image = plot_frame(np.arange(12.0).reshape(4, 3), ax, first_row=100, row_step=4).images[0]
    assert image.get_extent() == [-0.5, 2.5, 114.0, 98.0]  # rows 100, 104, 108, 112


def test_frame_marks_a_place(ax):
    plot_frame(np.arange(12.0).reshape(4, 3), ax, first_row=100, marked=(1, 102))
    assert ax.lines[0].get_xydata().tolist() == [[1, 102]]


def test_sky_of_a_frame_stays_visible_beside_a_bright_star(ax):
    rng = np.random.default_rng(3)
    pixels = rng.normal(1000, 10, (200, 300))
    pixels[:, 7] = 50_000
    norm = plot_frame(pixels, ax).images[0].norm
    dark, sky, bright, star = (float(norm(value)) for value in (980, 1000, 1020, 50_000))
    assert 0 <= dark < sky - 0.05 < sky + 0.03 < bright  # two σ of the sky are told apart
    assert 0.1 < sky < 0.3
    assert star == pytest.approx(1)


def test_labels_of_magnitudes_do_not_overlap(ax):
    streaks = pd.DataFrame({"x": [500.0, 510.0, 900.0], "mag": [9.0, 8.5, 12.0]})
    plot_streaks(np.ones(1000), streaks, ax)
    assert texts(ax) == ["8.5", "12.0"]  # the brighter one of two neighbours


def test_streaks_stand_on_the_profile_and_the_brightest_are_labelled(ax):
    profile = np.array([1.0, 1.0, 10.0, 1.0, 100.0, 1.0])
    streaks = pd.DataFrame({"x": [2.2, 3.9, 0.1], "mag": [12.0, 9.51, np.nan]})
    assert plot_streaks(profile, streaks, ax, n_labels=1) is ax
    line, marks = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), profile)
    np.testing.assert_array_equal(marks.get_xdata(), [2.2, 3.9, 0.1])
    np.testing.assert_array_equal(marks.get_ydata(), [10.0, 100.0, 1.0])
    assert texts(ax) == ["9.5"]
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "Mean over time (e⁻ per row and column)"


def test_streaks_of_a_profile_that_touches_zero_are_drawn_on_a_linear_scale(ax):
    plot_streaks(np.array([0.0, np.nan, 5.0]), pd.DataFrame({"x": [], "mag": []}), ax)
    assert ax.get_yscale() == "linear"
    assert len(ax.lines) == 1


def test_strip_shows_columns_upward_and_time_rightward(ax):
    residual = np.array([[0.0, 5.0, np.nan], [1.0, -7.0, 2.0]])
    assert plot_strip(residual, ax, first_row=40, first_column=9, rows_per_bin=4, marked_rows=(44, 47)) is ax
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array().filled(99), [[0, 5, 99], [1, -7, 2]])
    assert image.get_extent() == [39.5, 51.5, 8.5, 10.5]
    assert image.get_clim() == (-6, 6)
    assert [line.get_xdata()[0] for line in ax.lines] == [43.5, 47.5]
    assert ax.get_xlabel() == "File row (read order; time runs right)"
    assert image.colorbar.ax.get_ylabel() == "Residual (σ)"


def test_light_curve_shows_its_values_and_shades_the_event(ax):
    seconds, sigma = np.array([0.0, 0.5, 1.0]), np.array([1.0, 8.0, np.nan])
    assert plot_light_curve(seconds, sigma, ax, marked_s=(0.4, 0.6)) is ax
    curve = ax.lines[-1]
    np.testing.assert_array_equal(curve.get_xdata(orig=True), seconds)
    np.testing.assert_array_equal(curve.get_ydata(orig=True), sigma)
    assert ax.patches[0].get_x() == 0.4
    assert ax.patches[0].get_width() == pytest.approx(0.2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Time (s)", "Flux (σ)")


def test_residual_shows_time_downward_and_what_is_masked(ax):
    residual = np.array([[0.0, 9.0], [np.nan, -1.0], [2.0, 3.0]])
    assert plot_frame(residual, ax, first_row=100, first_column=20, limit_sigma=5) is ax
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array().filled(99), [[0, 9], [99, -1], [2, 3]])
    assert image.get_extent() == [19.5, 21.5, 102.5, 99.5]
    assert image.get_clim() == (-5, 5)
    assert image.colorbar.ax.get_ylabel() == "Residual (σ)"


def test_noise_of_columns_is_drawn_by_kind_and_what_is_outside_on_the_edge(ax):
    level = np.array([300.0, 310.0, 500.0, 900.0, -5.0])
    noise = np.array([1.0, np.nan, 1.1, 3.0, 1.0])
    sky = np.array([True, True, False, False, True])
    magnitudes = {"9": 5000.0, "11": 600.0, "12": 420.0, "13": 415.0}
    assert plot_column_noise(level, noise, {"sky": sky, "stars": ~sky}, ax, magnitudes=magnitudes) is ax
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["sky (1)"] == [[300, 1]]
    assert drawn["stars (2)"] == [[500, 1.1]]
    assert drawn["above 1.5 (1)"] == [[900, 1.5]]
    assert ax.get_xscale() == "log"
    named = [text.get_text() for text in ax.child_axes[0].get_xticklabels()]
    assert named == ["11", "12"]  # 9 lies outside, and 13 has no room beside 12


def test_noise_over_time_is_drawn_in_steps_with_all_of_it_in_view(ax):
    assert plot_noise_over_time(np.array([0, 10, 20]), np.array([1.4, np.nan]), ax) is ax
    values, edges, _ = ax.patches[-1].get_data()
    np.testing.assert_array_equal(values, [1.4, np.nan])
    np.testing.assert_array_equal(edges, [-0.5, 9.5, 19.5])
    assert ax.get_ylim() == (0.96, pytest.approx(1.41))


def test_pickup_labels_its_lines_with_their_periods_where_there_is_room(ax):
    frequency, amplitude = np.arange(151.0), np.full(151, 0.1)
    peaks = pd.DataFrame({"frequency_hz": [60.0, 120.0, 62.0], "amplitude_e": [2.0, 1.0, 0.5]})
    assert plot_pickup(frequency, amplitude, peaks, ax, row_rate_hz=300.0) is ax
    assert texts(ax) == ["60.0 Hz\n5.00 rows", "120.0 Hz\n2.50 rows"]
    spectrum, marks = ax.lines
    assert spectrum.get_xdata()[0] == 1  # not 0 Hz
    assert marks.get_xydata().tolist() == [[60, 2], [120, 1], [62, 0.5]]
    assert ax.get_ylabel() == "Amplitude (e⁻)"


def test_masked_fraction_is_binned_in_percent_and_bad_columns_are_marked(ax):
    fraction = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.5])
    assert plot_masked(fraction, ax, n_bins=4, marked=np.array([4])) is ax
    values, edges, _ = ax.patches[0].get_data()
    np.testing.assert_allclose(values, [0, 0, 50, 50])
    np.testing.assert_allclose(edges, [-0.5, 1.5, 3.5, 5.5, 7.5])
    assert ax.lines[0].get_xdata().tolist() == [4]
    assert texts(ax) == []


def test_nothing_masked_is_said(ax):
    plot_masked(np.zeros(10), ax, along="File row")
    assert texts(ax) == ["none"]
    assert ax.get_xlabel() == "File row (read order)"


NO_PEAKS = pd.DataFrame({"frequency_hz": [], "amplitude_e": []})


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda ax: plot_masked(np.empty(0), ax), "no pixels"),
        (lambda ax: plot_noise_over_time(np.array([0, 5]), np.array([np.nan]), ax), "no sky columns"),
        (lambda ax: plot_pickup(np.empty(0), np.empty(0), NO_PEAKS, ax, row_rate_hz=300.0), "no rows"),
        (lambda ax: plot_column_noise(np.ones(2), np.full(2, np.nan), {}, ax), "no columns"),
        (lambda ax: plot_frame(np.empty((0, 5)), ax), "no pixels"),
        (lambda ax: plot_streaks(np.empty(0), pd.DataFrame({"x": [], "mag": []}), ax), "no columns"),
        (lambda ax: plot_strip(np.empty((16, 0)), ax), "no pixels"),
        (lambda ax: plot_light_curve(np.empty(0), np.empty(0), ax), "no rows"),
    ],
)
def test_empty_axes_are_explained(ax, draw, text):
    assert draw(ax) is ax
    assert texts(ax) == [text]
    assert ax.get_xlabel()
