import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from shutterless.pipeline.plots.cubes import (
    duration_unit,
    name_cadences,
    plot_noise_map,
    plot_pixel_image,
    plot_pixel_light,
    plot_residual_image,
    plot_summed_light,
    round_values,
)
from shutterless.pipeline.plots.frames import BLUE, GREY, VERMILLION

TIME = 3435.0 + 0.02 * np.arange(10)


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def lines(ax, colour, marker):
    return [line for line in ax.lines if to_hex(line.get_color()).upper() == colour and line.get_marker() == marker]


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(0.0, "ms"), (0.02, "ms"), (1.5, "s"), (89.0, "s"), (-1765.0, "min"), (8827.0, "h"), (36 * 3600.0, "d")],
)
def test_time_is_in_the_largest_unit_that_it_holds_one_and_a_half_of(seconds, unit):
    assert duration_unit(seconds)[0] == unit
    assert duration_unit(seconds)[1] == {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}[unit]


def test_light_curve_has_no_line_across_masked_cadences_and_a_tick_for_each(ax):
    light = np.array([0, 1, np.nan, 2, 3, np.nan, np.nan, np.nan, 80, 1.0])
    assert plot_summed_light(TIME, light, ax, ylabel="Light (%)") is ax
    (curve,) = lines(ax, BLUE, ".")
    np.testing.assert_array_equal(curve.get_ydata(), light)  # NaN is in the line, so that it breaks there
    np.testing.assert_array_equal(curve.get_xdata(), TIME)
    (ticks,) = lines(ax, GREY, "|")
    np.testing.assert_array_equal(ticks.get_xdata(), TIME[[2, 5, 6, 7]])
    assert ticks.get_linestyle() == "None"
    assert (ax.get_ylim()[0] < 0, ax.get_ylim()[1] > 80) == (True, True)
    assert ax.get_xlim() == pytest.approx((TIME[0] - 0.02, TIME[-1] + 0.02))


def test_light_curve_without_a_live_cadence_says_so(ax):
    assert texts(plot_summed_light(TIME, np.full(10, np.nan), ax)) == ["no live cadences"]


def test_events_are_numbered_at_their_times_and_numbers_do_not_overlap(ax):
    times = {1: TIME[5], 2: TIME[5] + 1e-4, 3: TIME[5] + 2e-4, 4: TIME[5] + 3e-4, 5: TIME[1], 6: 9999.0}
    plot_summed_light(TIME, np.ones(10), ax, marked=times)
    written = {int(text.get_text()): text.get_position() for text in ax.texts}
    assert set(written) == {1, 2, 3, 5}  # the fourth has no room, the sixth is not on the axis
    assert all(written[n][0] == times[n] for n in written)
    assert written[1][1] == written[5][1] > written[2][1] > written[3][1]
    drawn = sorted(line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2)
    assert drawn == pytest.approx(sorted(time for n, time in times.items() if n != 6))


def test_what_lies_beyond_the_limits_is_a_triangle_on_the_edge(ax):
    plot_summed_light(TIME, np.array([0, 1, 0, 1, 180, 0, 1, 0, -50, 1.0]), ax, limits=(0, 1))
    bottom, top = ax.get_ylim()
    assert -1 < bottom < top < 2
    (above,), (below,) = lines(ax, VERMILLION, "^"), lines(ax, VERMILLION, "v")
    assert (above.get_xdata()[0], above.get_ydata()[0]) == (TIME[4], top)
    assert (below.get_xdata()[0], below.get_ydata()[0]) == (TIME[8], bottom)


def test_second_axis_counts_cadences_where_they_are(ax):
    assert name_cadences(TIME, plot_summed_light(TIME, np.ones(10), ax), first_cadence=820) is ax
    above = ax.child_axes[0]
    assert above.get_xlabel() == "Cadence (from 0)"
    named = {
        int(label.get_text()): place for label, place in zip(above.get_xticklabels(), above.get_xticks(), strict=True)
    }
    assert named[822] == pytest.approx(TIME[2])
    assert all(820 <= cadence <= 829 for cadence in named)


def test_one_cadence_has_no_second_axis(ax):
    assert name_cadences(TIME[:1], ax).child_axes == []


def test_image_has_row_0_at_the_bottom_and_stars_where_they_are(ax):
    image_e = np.arange(12.0).reshape(3, 4)
    stars = pd.DataFrame({"streak_id": [7, 8, 9], "x": [0.2, 3.0, 1], "y": [1.1, 2.0, 0], "flux_e_row": [5.0, 9, 1]})
    assert plot_pixel_image(image_e, ax, stars=stars, n_labels=2) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), image_e)
    assert ax.images[0].get_extent() == [-0.5, 3.5, -0.5, 2.5]
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    (marks,) = lines(ax, to_hex(ax.lines[0].get_color()).upper(), "o")
    np.testing.assert_array_equal(marks.get_xydata(), [[0.2, 1.1], [3, 2], [1, 0]])
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("8", (3.0, 2.0)), ("7", (0.2, 1.1))]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Column x (pixel)", "Row y (pixel)")
    assert ax.images[0].colorbar.ax.get_ylabel() == "Median light (e⁻ per cadence)"


def test_outline_of_an_aperture_runs_along_its_border(ax):
    aperture = np.zeros((3, 4), dtype=bool)
    aperture[1, 1:3] = aperture[2, 1] = True  # three pixels in an L: eight edges
    plot_pixel_image(np.ones((3, 4)), ax, aperture=aperture)
    edges = np.array(ax.collections[0].get_segments())
    assert len(edges) == 8
    assert (np.abs(edges[:, 1] - edges[:, 0]).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(edges.mean(axis=(0, 1)) > 1, [True, True])
    assert {tuple(edge.ravel()) for edge in edges} >= {(0.5, 0.5, 0.5, 1.5), (2.5, 0.5, 2.5, 1.5), (0.5, 2.5, 1.5, 2.5)}


def test_image_without_a_live_pixel_says_so(ax):
    assert texts(plot_pixel_image(np.full((2, 2), np.nan), ax)) == ["no live pixels"]
    assert texts(plot_noise_map(np.full((2, 2), np.nan), Figure().subplots())) == ["no live pixels"]


def test_flat_and_negative_images_are_drawn():
    for image_e in (np.zeros((2, 3)), np.full((2, 3), -5.0), np.array([[-3.0, np.nan, -2.0]])):
        figure = Figure()
        axes = plot_pixel_image(image_e, figure.subplots())
        figure.canvas.draw()
        (drawn,) = axes.images
        np.testing.assert_array_equal(np.ma.filled(drawn.get_array(), np.nan), image_e)
        assert np.isfinite(drawn.get_clim()).all()


def test_noise_is_written_into_the_pixels_of_small_images(ax):
    plot_noise_map(np.array([[1.0, 1.234], [12.34, np.nan]]), ax)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "1.00", (1, 0): "1.23", (0, 1): "12.3", (1, 1): ""}
    assert texts(plot_noise_map(np.ones((20, 20)), Figure().subplots())) == []


def test_values_along_a_colour_bar_are_round_symmetric_and_apart():
    assert round_values(3.0, -300.0, 300.0) == [-100.0, -10.0, 0.0, 10.0, 100.0]
    # a decade is ln 10 = 2.3 of the 7.6 = asinh 1000 that the scale is high
    assert round_values(1.0, 0.0, 1000.0, apart=0.25) == [0.0, 10.0, 100.0, 1000.0]
    assert all(value >= 20 for value in round_values(1.0, 20.0, 1000.0))


def test_residual_images_with_one_limit_have_the_same_colours_and_masked_pixels_are_left_out(ax):
    residual = np.array([[0.0, np.nan, 300.0], [-300.0, 3.0, 0.0]])
    plot_residual_image(residual, ax, limit_sigma=300.0, place=(11.5, 4.0), first_pixel=(4, 10))
    image = ax.images[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), np.isnan(residual))
    np.testing.assert_allclose(image.norm([-300.0, 0.0, 300.0]), [0, 0.5, 1])
    assert image.get_extent() == [9.5, 12.5, 3.5, 5.5]
    assert ax.patch.get_hatch() == "////"  # seen through the masked pixel
    assert ax.lines[0].get_xydata().tolist() == [[11.5, 4.0]]
    assert image.colorbar.ax.get_ylabel() == "Light − baseline (σ)"
    without = plot_residual_image(residual, Figure().subplots(), limit_sigma=300.0, bar=False)
    assert without.images[0].colorbar is None


def quiet_pixels(n_rows=200):
    """Two rows and three columns of pixels that alternate by ±1 around 10, 20, ... 60 electrons."""
    alternating = np.where(np.arange(n_rows) % 2, 1.0, -1.0)
    return np.arange(10.0, 61.0, 10.0).reshape(2, 3)[..., None] + alternating


def test_each_pixel_is_drawn_in_its_place_on_its_own_scale(ax):
    light_e = quiet_pixels()
    light_e[1, 2, 150] += 5000
    light_e[0, 1, 20:30] = np.nan
    time = np.arange(200.0)
    assert plot_pixel_light(time, light_e, ax, first_pixel=(8, 30)) is ax
    curves = [path.vertices for path in ax.collections[0].get_paths()]  # segments would be without NaN
    assert len(curves) == 6
    for curve, (y, x) in zip(curves, np.ndindex(2, 3), strict=True):
        assert (np.nanmin(curve[:, 0]) > 29.5 + x, np.nanmax(curve[:, 0]) < 30.5 + x) == (True, True)
        assert (np.nanmin(curve[:, 1]) > 7.5 + y, np.nanmax(curve[:, 1]) < 8.5 + y) == (True, True)
    assert np.isnan(curves[1][20:30, 1]).all()  # no line across masked cadences
    (beyond,) = [line for line in ax.lines if line.get_markersize() == 4]
    assert len(beyond.get_xdata()) == 1  # the event alone is cut, in its pixel and at its time
    assert beyond.get_xdata()[0] == pytest.approx(32 + 0.88 * (150 / 199 - 0.5))
    assert texts(ax)[0] == "4 (40 %)"  # of ±1 and half of it on either side, of 10 electrons
    assert ax.get_xlim() == (29.5, 32.5)
    assert ax.get_ylim() == (7.5, 9.5)


def test_on_a_common_scale_the_brighter_event_is_the_higher(ax):
    light_e = np.zeros((1, 2, 50))
    light_e[0, :, 25] = 10.0, 1000.0
    plot_pixel_light(np.arange(50.0), light_e, ax, common=True, shaded=(20.0, 30.0))
    faint, bright = (np.ptp(curve[:, 1]) for curve in ax.collections[0].get_segments())
    assert faint == pytest.approx(bright / 100)
    assert len(ax.patches) == 2  # the event is shaded in both
    assert texts(ax) == []


def test_pixels_with_events_are_framed_and_hold_their_numbers(ax):
    events = [(1, 1.2, 0.0), (2, 0.9, 0.3), (5, 2.0, 1.0)]
    plot_pixel_light(np.arange(200.0), quiet_pixels(), ax, marked=events)
    assert [patch.get_xy() for patch in ax.patches] == [(0.5, -0.5), (1.5, 0.5)]
    assert texts(ax)[-2:] == ["1, 2", "5"]


def test_pixels_that_are_always_masked_stay_empty(ax):
    light_e = quiet_pixels()
    light_e[0, 0] = np.nan
    plot_pixel_light(np.arange(200.0), light_e, ax)
    assert len(ax.collections[0].get_segments()) == 5
    assert texts(plot_pixel_light(np.arange(200.0), light_e * np.nan, Figure().subplots())) == ["no live pixels"]
