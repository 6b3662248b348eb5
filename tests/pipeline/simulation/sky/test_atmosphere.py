"""Strengths of the air are recovered from its series and from simulated pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.simulation.content import AmplifierContent, draw_air, draw_content
from shutterless.pipeline.simulation.rendering import mean_electrons, render
from shutterless.pipeline.simulation.scene import draw_scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings
from shutterless.pipeline.simulation.sky.atmosphere import (
    AirRun,
    AirSeries,
    Atmosphere,
    AtmosphereError,
    Scintillation,
    add_sources,
    draw_atmosphere,
    draw_scintillation,
    draw_waves,
)

QUIET = {name: 0.0 for name in ("scintillation_rms", "motion_rms_arcsec", "focus_rms", "transparency_rms")}
STRENGTHS = {
    "scintillation": (0.011, 0.065),
    "motion_px": (0.4, 0.1),
    "focus": (0.15, 1.0),
    "transparency": (0.03, 5.0),
}


def make_atmosphere(seed: int = 1, n_stars: int = 3, **strengths: tuple[float, float]) -> Atmosphere:
    return draw_atmosphere(np.random.default_rng(seed), n_stars, row_rate_hz=300.0, **{**STRENGTHS, **strengths})


def autocorrelation(series: np.ndarray, lag: int) -> float:
    centred = series - series.mean(axis=0)
    return float(np.mean(centred[lag:] * centred[:-lag]) / np.mean(centred**2))


def windy(profile: str, **strengths: float) -> SceneSettings:
    """The tiny camera without artefacts of the readout, with only the named effects."""
    quiet = {**QUIET, **strengths}
    return SceneSettings(
        instrument=profile,
        rows=12_000,
        events=0,
        artefacts=False,
        n_bright_stars=0,
        sky_mag=20.0,
        atmosphere=True,
        first_row=None,
        suffix=".fits",
        **quiet,
    )


def expose(settings: SceneSettings, x: list[float], y0: list[float], flux: float = 80_000.0) -> np.ndarray:
    """Electrons of rendered stars above the sky, shape (t, x)."""
    stars = {"x": np.array(x), "y0": np.array(y0), "mag": np.zeros(len(x)), "flux_e_row": np.full(len(x), flux)}
    scene = replace(draw_scene(settings, 1, 1), **stars)
    rows = settings.sequence_rows(0)
    content = AmplifierContent(scene, rows, air=draw_air(settings, scene, 1, 1))
    pixels = render(settings, content, np.random.default_rng(5))[0]
    return (pixels - 100.0) * 2.0 - scene.sky_e_s * 50 / 300


def test_scintillation_has_the_scatter_and_memory_asked_for():
    # 200 stars x 6,000 rows: 90,000 correlation times
    factors = draw_scintillation(np.random.default_rng(1), 200, 0.3, 0.065, 300.0).factors(1000, 6000)
    assert factors.mean() == pytest.approx(1.0, abs=0.01)
    assert factors.std() == pytest.approx(0.3, rel=0.05)
    logarithm = np.log(factors)
    for lag in (1, 10, 19, 40):
        assert autocorrelation(logarithm, lag) == pytest.approx(np.exp(-lag / 19.5), abs=0.02)
    skewness = np.mean((logarithm - logarithm.mean()) ** 3) / logarithm.std() ** 3
    assert abs(skewness) < 0.03  # log-normal: the logarithm is Gaussian, the factors are not
    correlations = np.corrcoef(logarithm[:, :20].T)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 * np.sqrt(19.5 / 6000)


def test_scintillation_is_the_same_from_wherever_it_is_asked():
    scintillation = draw_scintillation(np.random.default_rng(2), 4, 0.011, 0.065, 300.0)
    whole = scintillation.factors(0, 2000)
    for first, n_rows in ((0, 7), (127, 2), (600, 1400), (1999, 1)):
        np.testing.assert_allclose(scintillation.factors(first, n_rows), whole[first : first + n_rows], rtol=1e-13)
    other = draw_scintillation(np.random.default_rng(3), 4, 0.011, 0.065, 300.0)
    assert np.abs(other.factors(0, 2000) - whole).max() > 0.01
    np.testing.assert_array_equal(replace(scintillation, rms=0.0).factors(0, 5), np.ones((5, 4)))


@pytest.mark.parametrize(("rms", "correlation_s"), [(0.4, 0.1), (0.15, 1.0)])
def test_waves_are_differentiable_with_the_scatter_and_memory_asked_for(rms, correlation_s):
    # 2,000 correlation times at 15 samples each
    seconds = np.arange(30_000) * correlation_s / 15
    waves = draw_waves(np.random.default_rng(4), rms, correlation_s)
    series = waves.value(seconds)
    assert series.std() == pytest.approx(rms, rel=0.05)
    for times in (0.2, 1.0, 3.0):
        expected = (1 + times) * np.exp(-times)
        assert autocorrelation(series, round(15 * times)) == pytest.approx(expected, abs=0.05)
    assert waves.rate(seconds).std() == pytest.approx(rms / correlation_s, rel=0.08)
    fine = np.linspace(0, 1, 200_001) * correlation_s
    slope = np.gradient(waves.value(fine), fine)
    np.testing.assert_allclose(slope[1:-1], waves.rate(fine)[1:-1], atol=1e-5 * rms / correlation_s)


def test_waves_are_gaussian_across_realisations():
    values = [draw_waves(np.random.default_rng(seed), 2.0, 0.1).value(np.array([7.0]))[0] for seed in range(2000)]
    assert np.std(values) == pytest.approx(2.0, rel=5 / np.sqrt(2 * 2000))
    assert np.mean(np.abs(values)) == pytest.approx(2.0 * np.sqrt(2 / np.pi), rel=0.08)


def test_motion_along_rows_modulates_the_flux_by_one_percent():
    series = make_atmosphere(transparency=(0.0, 5.0)).shared(0, 60_000)
    # 0.4 px in 0.1 s is 4 px/s, of 300 rows/s; a position without a derivative would give 10 %
    assert series.light.std() == pytest.approx(4 / 300, rel=0.1)
    assert np.diff(series.light).std() < 0.3 * series.light.std()
    assert series.light.mean() == pytest.approx(1.0, abs=0.001)


def test_a_star_that_runs_ahead_of_the_rows_leaves_less_light_in_each():
    # the light of 1/300 s, spread over as many rows as the star crosses in it
    atmosphere = make_atmosphere(motion_px=(3.0, 0.2), transparency=(0.0, 5.0))
    rows = np.arange(30_001)
    moved = rows + atmosphere.motion_y_px.value(rows / 300)  # row at which light of each time is read
    light = np.diff(rows) / np.diff(moved)
    np.testing.assert_allclose(atmosphere.shared(0, 30_001).light[:-1], light, atol=0.02)


def test_focus_and_transparency_have_mean_one_and_the_scatter_asked_for():
    series = make_atmosphere(motion_px=(0.0, 0.1), transparency=(0.05, 1.0)).shared(-3000, 300_000)
    assert series.width.std() == pytest.approx(0.15, rel=0.1)
    assert series.light.std() == pytest.approx(0.05, rel=0.1)
    assert series.width.mean() == pytest.approx(1.0, abs=0.02)
    assert series.light.mean() == pytest.approx(1.0, abs=0.01)
    assert autocorrelation(np.log(series.width), 300) == pytest.approx(2 / np.e, abs=0.08)
    assert not np.any(series.shift_px)


def test_series_are_cuts_of_one_sequence_and_those_of_seeds_differ():
    whole = make_atmosphere().shared(0, 4000)
    later = make_atmosphere().shared(2500, 1500)
    for name in ("shift_px", "width", "light"):
        np.testing.assert_allclose(getattr(later, name), getattr(whole, name)[2500:], rtol=1e-12)
    assert np.abs(make_atmosphere(2).shared(0, 4000).shift_px - whole.shift_px).max() > 0.3


def test_a_source_lands_where_the_air_puts_it():
    n = 40
    series = AirSeries(-30, np.linspace(-2, 2, n), np.linspace(0.7, 1.4, n), np.linspace(0.5, 1.5, n))
    mean = np.full((3, 32), 7.0)
    add_sources(mean, 4, np.array([[100.0], [0.0], [-50.0]]), np.array([15.2]), np.array([3.25]), 0.84, series)
    np.testing.assert_array_equal(mean[1], 7.0)
    for row, electrons in ((0, 100.0), (2, -50.0)):
        place = (4 + row - 3.25 + 30) / (n - 1)  # star time 0.75 and 2.75, on straight lines
        profile = pixel_profile(np.arange(32) - (15.2 - 2 + 4 * place), 0.84 * (0.7 + 0.7 * place))
        np.testing.assert_allclose(mean[row] - 7, electrons * (0.5 + place) * profile, atol=1e-4)


def test_light_beyond_the_edges_is_lost():
    series = AirSeries(-5, np.zeros(20), np.ones(20), np.ones(20))
    mean = np.zeros((2, 8))
    add_sources(mean, 0, np.full((2, 3), 10.0), np.array([-0.5, 7.5, -40.0]), np.zeros(3), 0.84, series)
    np.testing.assert_allclose(mean.sum(axis=1), 10.0, atol=1e-4)  # half of each of two
    np.testing.assert_allclose(mean, mean[:, ::-1], atol=1e-5)


def test_steady_air_is_no_air(tiny_profile):
    settings = replace(windy(tiny_profile), rows=300, n_bright_stars=20_000, events=2, first_row=0, kinds=("burst",))
    content = draw_content(settings, 1, 1, 0)
    assert len(content.scene.x) > 10
    still = mean_electrons(content, slice(0, 300))
    none = mean_electrons(replace(content, air=None), slice(0, 300))
    assert content.scene.flux_e_row.max() > 100
    np.testing.assert_allclose(still, none, rtol=1e-6, atol=1e-5 * content.scene.flux_e_row.max())


def test_scintillation_is_measured_back_from_pixels(tiny_profile):
    image = expose(windy(tiny_profile, scintillation_rms=0.03), [32.3], [10.4])
    flux = image[:, 16:49].sum(axis=1) / 80_000
    noise = 1 / 80_000 + 33 * 100 / 80_000**2  # photons; sky, read and digitisation noise below 100 e-² a pixel
    assert np.sqrt(flux.var() - noise) == pytest.approx(0.03, rel=0.1)
    expected = np.exp(-20 / 19.5) * (flux.var() - noise) / flux.var()
    assert autocorrelation(flux, 20) == pytest.approx(expected, abs=0.1)


def test_motion_and_focus_are_measured_back_from_pixels_and_shared_in_star_time(tiny_profile):
    settings = windy(tiny_profile, motion_rms_arcsec=0.4, focus_rms=0.15)
    image = expose(settings, [16.3, 48.1], [5.0, 45.0])
    offsets = np.arange(-8, 9)
    moments = []
    for centre in (16, 48):
        window = image[:, centre - 8 : centre + 9]
        total = window.sum(axis=1)
        position = window @ offsets / total
        moments.append((position, np.sqrt(window @ offsets**2 / total - position**2 - 1 / 12)))
    (one, width), (two, _) = moments
    # the tiny camera has pixels of 1 arcsec
    assert one.std() == pytest.approx(0.4, rel=0.1)
    assert autocorrelation(one, 30) == pytest.approx(2 / np.e, abs=0.08)
    assert width.std() / width.mean() == pytest.approx(0.15, rel=0.25)  # 40 correlation times: 16 %
    assert width.std() == pytest.approx(draw_widths(settings).std(), rel=0.05)
    # the second star's y0 is 40 rows above the first's: the same wiggle 40 rows later
    assert np.corrcoef(one[:-40], two[40:])[0, 1] > 0.98
    assert np.corrcoef(one, two)[0, 1] < 0.75


def draw_widths(settings: SceneSettings) -> np.ndarray:
    """Widths (pixels) of the series at star times (row - y0) of a star at y0 = 5."""
    series = draw_content(settings, 1, 1, 0).air.shared(settings.sequence_rows(0)[0] - 5, settings.rows)
    return series.width * draw_scene(settings, 1, 1).psf_sigma_px


def test_flux_modulation_and_cloud_are_measured_back_from_pixels(tiny_profile):
    noise = 1 / 80_000 + 33 * 100 / 80_000**2
    for strengths, expected in (
        ({"motion_rms_arcsec": 0.4}, 4 / 300),
        ({"transparency_rms": 0.05, "transparency_s": 0.1}, 0.05),
    ):
        image = expose(windy(tiny_profile, **strengths), [32.3], [10.4])
        flux = image[:, 16:49].sum(axis=1) / 80_000
        assert np.sqrt(flux.var() - noise) == pytest.approx(expected, rel=0.1)


def test_an_event_moves_with_its_star(tiny_profile):
    settings = replace(
        windy(tiny_profile, motion_rms_arcsec=0.5, focus_rms=0.15, scintillation_rms=0.02),
        rows=1000,
        n_bright_stars=20_000,
        events=1,
        kinds=("occultation",),
    )
    content = draw_content(settings, 1, 1, 0)
    placed, air = content.events[0], content.air
    star = placed.event.star_id
    assert placed.y0 == content.scene.y0[star]
    only = {name: getattr(content.scene, name)[[star]] for name in ("x", "y0", "mag", "flux_e_row")}
    # the light of event and star, each by itself, has the same shape in every row
    rows, whole = placed.rows[2], slice(0, 1000)
    without_event = replace(content, events=[])
    event = (mean_electrons(content, whole) - mean_electrons(without_event, whole))[rows]
    steady = replace(air, scintillation=Scintillation(1, 1, 0.0, 0.1, 300.0))
    bare = replace(without_event, scene=replace(content.scene, **only), air=steady)
    light = mean_electrons(bare, whole)[rows] - content.scene.sky_e_s * 50 / 300
    np.testing.assert_allclose(event / event.sum(), light / light.sum(), atol=2e-4)


def test_orphans_have_a_place_of_their_own_on_the_detector(tiny_profile):
    settings = replace(windy(tiny_profile, motion_rms_arcsec=0.4), rows=3000, events=6, kinds=("glint",))
    y0 = np.array([placed.y0 for placed in draw_content(settings, 1, 1, 0).events])
    assert len(np.unique(y0)) == 6
    assert 0 <= y0.min() < y0.max() <= 50


def test_files_of_a_sequence_join(tiny_profile):
    shared = windy(tiny_profile, motion_rms_arcsec=0.4, focus_rms=0.15, scintillation_rms=0.011, transparency_rms=0.03)
    shared = replace(shared, n_bright_stars=20_000, first_row=0)
    whole = mean_electrons(draw_content(replace(shared, rows=900), 1, 1, 0), slice(0, 900))
    parts = [draw_content(replace(shared, rows=300, files=3), 1, 1, index) for index in (2, 0, 1)]
    later, first, middle = (mean_electrons(part, slice(0, 300)) for part in parts)
    np.testing.assert_allclose(np.concatenate([first, middle, later]), whole, rtol=1e-10)
    # another amplifier has different air
    one, other = (draw_content(replace(shared, rows=300), 1, quadrant, 0).air.shared(0, 300) for quadrant in (1, 2))
    assert np.abs(other.shift_px - one.shift_px).max() > 0.3


def test_air_goes_on_from_block_to_block():
    atmosphere = make_atmosphere()
    run, first = AirRun(atmosphere, 100), 1000
    for n_rows in (7, 128, 300, 1):
        series = run.series(first, n_rows)
        assert (series.first, series.end) == (first - 101, first + n_rows + 1)
        fresh = atmosphere.shared(series.first, len(series.light))
        for name in ("shift_px", "width", "light"):
            np.testing.assert_allclose(getattr(series, name), getattr(fresh, name), rtol=1e-12)
        factors = atmosphere.scintillation.factors(first, n_rows)
        np.testing.assert_allclose(run.factors(first, n_rows), factors, rtol=1e-13)
        first += n_rows
    assert run.series(500, 10).first == 399  # and starts anew for other rows


def test_motion_faster_than_the_rows_is_refused():
    with pytest.raises(
        AtmosphereError, match=r"motion of 5 px rms in 0\.05 s is 100 px/s rms; at 300 rows/s at most 50"
    ):
        make_atmosphere(motion_px=(5.0, 0.05))


def test_sources_outside_the_series_are_refused():
    series = AirSeries(0, np.zeros(10), np.ones(10), np.ones(10))
    one = np.ones((5, 1))
    for y0, message in ((3.0, r"from row -1\.0 to 3\.0, the series covers 0 to 9"), (-4.0, r"from row 6\.0 to 10\.0")):
        with pytest.raises(AtmosphereError, match=message):
            add_sources(np.zeros((5, 8)), 2, one, np.array([4.0]), np.array([y0]), 0.84, series)
    add_sources(np.zeros((5, 8)), 2, np.ones((5, 0)), np.empty(0), np.empty(0), 0.84, series)  # allowed without stars


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"focus_rms": -0.1}, r"\[focus_rms\] = -0\.1: input should be greater than or equal to 0"),
        ({"motion_s": 0.0}, r"\[motion_s\] = 0\.0: input should be greater than 0"),
    ],
)
def test_impossible_strengths_are_refused(changes, message):
    with pytest.raises(SceneError, match=message):
        SceneSettings(**changes)
