from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from shutterless.pipeline.events.events import draw_event
from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.frames import FrameError, read_amplifier, read_frame_info
from shutterless.pipeline.simulation.camera.artefacts import CosmicRay, PickupBurst
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.placement import light_curve_by_pieces, place_event
from shutterless.pipeline.simulation.rendering import mean_electrons, render
from shutterless.pipeline.simulation.scene import PIXELS, Scene, draw_scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
from shutterless.pipeline.simulation.truth import STAR_COLUMNS, TRUTH_COLUMNS, truth_rows, write_tables


@pytest.fixture
def tiny(tiny_profile) -> SceneSettings:
    """Quiet sky without stars on 64 columns: gain 2, read noise 5 e-, 50 rows of transit."""
    return SceneSettings(
        instrument=tiny_profile,
        rows=400,
        events=0,
        artefacts=False,
        n_bright_stars=0,
        sky_mag=17.0,
        first_row=0,
        suffix=".fits",
    )


@pytest.fixture
def starry(tiny) -> SceneSettings:
    """Some twenty stars, events and artefacts."""
    return replace(tiny, n_bright_stars=20_000, events=2, artefacts=True, rows=600, kinds=("burst", "occultation"))


def electrons(settings: SceneSettings, content: AmplifierContent, seed: int = 3) -> np.ndarray:
    """Rendered pixels in electrons above the bias."""
    return (render(settings, content, np.random.default_rng(seed))[0] - 100.0) * settings.electronics("gain_e_per_adu")


def test_sky_level_is_the_surface_brightness_times_the_transit():
    scene = draw_scene(SceneSettings(), 1, 1)
    # science: r sky of 20.8 mag/arcsec² on 1.012" pixels for 3080/300 s, zero point 24.49: 314 e-
    assert scene.sky_e_s * 3080 / 300 == pytest.approx(314, abs=1)
    # and a star of magnitude 20 gives 62.6 e-/s
    star = 10 ** (-0.4 * (20 - scene.mag)) / (scene.flux_e_row * 300)
    np.testing.assert_allclose(1 / star / 10 ** (0.8 * (20 - scene.mag)), 62.5, rtol=0.002)


def test_number_and_slope_of_the_stars():
    scene = draw_scene(SceneSettings(), 1, 1)
    assert np.count_nonzero(scene.mag < 14.5) == pytest.approx(300, abs=4 * np.sqrt(300))
    brighter = [np.count_nonzero(scene.mag < mag) for mag in (14.0, 16.0)]
    assert np.log10(brighter[1] / brighter[0]) / 2 == pytest.approx(0.28, abs=0.03)
    assert 7.5 <= scene.mag.min() < scene.mag.max() <= 17.0
    assert 0 <= scene.y0.min() < scene.y0.max() <= 3080


def test_ramp_rises_linearly_to_the_sky_and_stays(tiny):
    content = draw_content(tiny, 1, 1, 0)
    rows = electrons(tiny, content).mean(axis=1)
    sky = content.scene.sky_e_s * 50 / 300
    expected = sky * np.minimum(np.arange(400) / 50, 1)
    # the mean of 64 pixels of sky + read noise² + 1/12 ADU²
    error = np.sqrt((expected + 25 + 4 / 12) / 64)
    assert np.abs((rows - expected) / error).max() < 4.5
    assert np.mean(((rows - expected) / error) ** 2) == pytest.approx(1.0, abs=5 * np.sqrt(2 / 400))


def test_variance_is_photons_plus_read_noise(tiny):
    for sky_mag in (19.0, 17.0, 15.0):
        settings = replace(tiny, sky_mag=sky_mag, rows=2000, first_row=None)
        content = draw_content(settings, 1, 1, 0)
        image = electrons(settings, content)
        mean = content.scene.sky_e_s * 50 / 300
        assert image.mean() == pytest.approx(mean, abs=5 * np.sqrt((mean + 25) / image.size))
        assert image.var() == pytest.approx(mean + 25 + 4 / 12, rel=5 * np.sqrt(2 / image.size))


def test_flux_of_a_star_is_recovered_by_summing_columns(tiny):
    scene = replace(
        draw_scene(tiny, 1, 1),
        x=np.array([30.3]),
        y0=np.array([20.25]),
        mag=np.array([10.0]),
        flux_e_row=np.array([2000.0]),
    )
    rows = np.arange(400)
    content = AmplifierContent(scene, rows)
    image = electrons(tiny, content) - (scene.sky_e_s * scene.exposure_s(rows))[:, None]
    flux = image[60:, 20:41].sum(axis=1)
    variance = 2000 + 21 * (scene.sky_e_s * 50 / 300 + 25 + 4 / 12)
    assert flux.mean() == pytest.approx(2000, abs=5 * np.sqrt(variance / 340))
    assert flux.var() == pytest.approx(variance, rel=0.4)
    # the streak begins at row y0: a step, half-way at 20.25, as wide as the point-spread function
    start = scene.baseline_e(rows)[:, 20:41].sum(axis=1) - 21 * scene.sky_e_s * scene.exposure_s(rows)
    np.testing.assert_allclose(start[:14], 0, atol=1e-9)
    assert np.interp(1000, start[15:26], rows[15:26]) == pytest.approx(20.25, abs=0.02)
    np.testing.assert_allclose(start[26:], 2000, rtol=1e-4)


@pytest.mark.parametrize(("mag", "asked"), [(10, 36.0), (12, 8.3), (14, 1.45), (16, 0.23)])
def test_signal_to_noise_of_an_optimally_weighted_row(mag, asked):
    # F/v over sqrt(F/v + 2 sqrt(pi) sigma (sky + read noise²)); 75 isolated stars and 2,000 rows
    settings = SceneSettings(rows=2000, events=0, artefacts=False, first_row=None, n_bright_stars=0)
    x = np.arange(20, 3050, 40) + 0.3
    stars = {"x": x, "y0": np.zeros(len(x)), "flux_e_row": np.full(len(x), 10 ** (-0.4 * (mag - 24.49)) / 300)}
    scene = replace(draw_scene(settings, 1, 1), **stars)
    image = render(settings, AmplifierContent(scene, settings.sequence_rows(0)), np.random.default_rng(1))[0] - 100.0
    columns = np.rint(x).astype(int)[:, None] + np.arange(-8, 9)
    profile = pixel_profile(columns - x[:, None], scene.psf_sigma_px)
    weight = profile / (scene.sky_e_s * 3080 / 300 + 100 + scene.flux_e_row[:, None] * profile)
    far = np.min(np.abs(np.arange(3072)[:, None] - x), axis=1) > 12
    flux = np.sum((image[:, columns] - image[:, far].mean()) * weight, axis=2)
    assert flux.mean() / flux.std(axis=0).mean() == pytest.approx(asked, rel=0.05)


def test_baseline_of_a_window_is_a_cut_of_the_whole(starry):
    scene = draw_scene(starry, 1, 1)
    assert len(scene.x) > 5
    rows = np.arange(100)
    whole = scene.baseline_e(rows)
    np.testing.assert_allclose(scene.baseline_e(rows[30:70], 11, 20), whole[30:70, 11:31], rtol=1e-7)
    direct = scene.sky_e_s * scene.exposure_s(rows)[:, None] * np.ones(64)
    for x, y0, flux in zip(scene.x, scene.y0, scene.flux_e_row, strict=True):
        if y0 < 80:
            direct[-1] += flux * pixel_profile(np.arange(64) - x, scene.psf_sigma_px)
    np.testing.assert_allclose(whole[-1], direct[-1], rtol=1e-6)


def test_overscan_holds_deferred_charge_and_then_the_bias(tiny):
    _, overscan = render(tiny, draw_content(tiny, 1, 1, 0), np.random.default_rng(1))
    means = overscan.mean(axis=0)
    assert means[0] == pytest.approx(250, abs=2)
    np.testing.assert_allclose(means[20:], 100, atol=0.8)
    assert np.all(np.diff(means[:8]) < 0)


def test_pickup_is_in_all_columns_and_the_overscan_alike(tiny):
    content = draw_content(tiny, 1, 1, 0)
    offsets = 100 * np.sin(np.arange(400) / 7)
    noisy = replace(content, pickup_bursts=[PickupBurst(0, offsets)])
    quiet_data, quiet_overscan = render(tiny, content, np.random.default_rng(1))
    data, overscan = render(tiny, noisy, np.random.default_rng(1))
    for loud, quiet in ((data, quiet_data), (overscan, quiet_overscan)):
        difference = (loud.astype(float) - quiet) * 2.0
        np.testing.assert_allclose(difference, np.broadcast_to(offsets[:, None], difference.shape), atol=2.01)


def test_bright_pixels_saturate_and_dark_ones_do_not_wrap(tiny):
    content = draw_content(tiny, 1, 1, 0)
    ray = CosmicRay(np.array([10]), np.array([5]), np.array([1e6]))
    burst = replace(content, cosmic_rays=[ray], pickup_bursts=[PickupBurst(20, np.array([-5000.0]))])
    data, _ = render(tiny, burst, np.random.default_rng(1))
    assert data[10, 5] == 60_000
    assert np.all(data[20] == 0)


def test_non_linearity_is_the_inverse_of_the_calibration():
    settings = SceneSettings(rows=2, events=0, artefacts=False, first_row=None, n_bright_stars=0)
    ray = CosmicRay(np.array([1]), np.array([7]), np.array([6.2 * 40_000]))
    content = replace(draw_content(settings, 1, 1, 0), cosmic_rays=[ray])
    x = float(render(settings, content, np.random.default_rng(1))[0][1, 7]) - 100
    true = x / (-6.85e-12 * x**2 + 1.885e-7 * x + 1)
    assert true == pytest.approx(40_000 + 314 / 6.2, abs=25)
    assert true - x > 50


def test_rho_is_the_root_of_signal_squared_over_variance(starry):
    for kind in ("burst", "occultation"):
        settings = replace(starry, kinds=(kind,), events=3, artefacts=False)
        content = draw_content(settings, 1, 1, 0)
        truth = truth_rows(content, "f.fits", 1, 1)
        assert truth["kind"].tolist() == [kind] * 3
        baseline = content.scene.baseline_e(content.rows)
        for index, placed in enumerate(content.events):
            signal = mean_electrons(replace(content, events=[placed]), slice(0, 600)) - baseline
            rho = np.sqrt(np.sum(signal**2 / (baseline + 25)))
            assert truth.rho[index] == pytest.approx(rho, rel=1e-6)
            fluence = np.abs(signal.sum(axis=1))
            inside = fluence[truth.row_start[index] : truth.row_stop[index] + 1].sum() / fluence.sum()
            assert 0.89 < inside <= 1


def test_rho_predicts_the_matched_filter_on_rendered_pixels(tiny):
    settings = replace(tiny, first_row=None, rows=100)
    content = draw_content(settings, 1, 1, 0)
    placed = place_event(content.scene, np.random.default_rng(8), "burst", 12.0, content.rows)
    content = replace(content, events=[placed])
    baseline = content.scene.baseline_e(content.rows)
    signal = mean_electrons(content, slice(0, 100)) - baseline
    weight = signal / (baseline + 25)
    images = np.stack([electrons(settings, content, seed) for seed in range(150)])
    statistic = np.sum((images - baseline) * weight, axis=(1, 2)) / np.sqrt(np.sum(signal * weight))
    assert placed.rho == pytest.approx(12.0)
    assert statistic.mean() == pytest.approx(12.0, abs=5 / np.sqrt(150))
    assert statistic.std() == pytest.approx(1.0, abs=0.35)


def test_wanted_rho_is_reached_where_it_is_plausible_and_capped_elsewhere(starry):
    scene = draw_scene(starry, 1, 1)
    rng, rows = np.random.default_rng(9), starry.sequence_rows(1)
    for _ in range(30):
        placed = place_event(scene, rng, "occultation", 8.0, rows)
        flux = scene.flux_e_row[placed.event.star_id]
        assert -flux <= placed.event.amplitude_e < 0
        assert placed.rho <= 8.0 * 10
    faint = replace(scene, flux_e_row=np.full_like(scene.flux_e_row, 1.0))
    assert place_event(faint, rng, "occultation", 8.0, rows).rho < 1.0


def test_no_star_no_occultation(tiny):
    scene = draw_scene(tiny, 1, 1)
    with pytest.raises(ValueError, match="no star shines yet"):
        place_event(scene, np.random.default_rng(1), "occultation", 8.0, tiny.sequence_rows(0))


def test_cosmic_ray_and_pickup_truth_solved_by_hand(tiny):
    content = draw_content(replace(tiny, first_row=None), 1, 1, 0)
    variance = content.scene.sky_e_s * 50 / 300 + 25
    ray = CosmicRay(np.array([40, 41]), np.array([7, 8]), np.array([300.0, 400.0]))
    content = replace(content, cosmic_rays=[ray], pickup_bursts=[PickupBurst(100, np.array([-30.0, 20.0]))])
    truth = truth_rows(content, "f.fits", 1, 2)
    assert list(truth.kind) == ["cosmic_ray", "pickup"]
    assert not truth.is_event.any()
    assert truth.rho[0] == pytest.approx(500 / np.sqrt(variance))
    assert truth.rho[1] == pytest.approx(np.sqrt(1300 * 64 / variance))
    assert truth.x[0] == pytest.approx(7 + 4 / 7)
    assert np.isnan(truth.x[1])
    assert list(truth.row_start) == [40, 100]
    assert list(truth.row_stop) == [41, 101]
    assert list(truth.row_peak) == [41, 100]
    assert list(truth.amplitude_e) == [400.0, -30.0 * 64]
    assert list(truth.sign) == [1, -1]
    assert truth.duration_s[0] == pytest.approx(2 / 300)


def test_events_keep_apart_and_inside(starry):
    truth = truth_rows(draw_content(replace(starry, rows=3000, events=12), 1, 1, 0), "f.fits", 1, 1)
    events = truth[truth.is_event].reset_index(drop=True)
    assert len(events) == 12
    assert events.row_start.min() >= 0
    assert events.row_stop.max() < 3000
    for i, one in events.iterrows():
        for _, other in events.iloc[i + 1 :].iterrows():
            overlapping = one.row_start <= other.row_stop and other.row_start <= one.row_stop
            assert not (overlapping and abs(one.x - other.x) < 12)


def test_star_events_begin_after_their_streak_and_carry_magnitudes(starry):
    content = draw_content(replace(starry, events=8, rows=3000), 1, 1, 0)
    truth = truth_rows(content, "f.fits", 1, 1)
    on_star = truth[truth.is_event & (truth.star_id >= 0)]
    assert len(on_star) > 2
    for _, row in on_star.iterrows():
        assert row.row_start > content.scene.y0[row.star_id]
        assert row.x == content.scene.x[row.star_id]
        assert row.star_mag == content.scene.mag[row.star_id]
        relative = row.amplitude_e / content.scene.flux_e_row[row.star_id]
        assert row.delta_mag == pytest.approx(-2.5 * np.log10(max(1 + relative, 1e-4)))
    orphans = truth[truth.star_id < 0]
    assert orphans.star_mag.isna().all()
    assert orphans.delta_mag.isna().all()


@pytest.mark.parametrize("quadrant", [1, 2])
def test_truth_lies_where_the_excess_is_through_flips(starry, tmp_path, quadrant):
    settings = replace(starry, events=1, kinds=("burst",), rho=(60.0, 60.0), first_row=None)
    path, truth, _ = simulate_file(settings, 3, 0, tmp_path)
    frame = read_amplifier(path, quadrant, instrument=settings.instrument)
    event = truth[truth.is_event & (truth.quadrant == quadrant)].iloc[0]
    image = (frame.pixels_adu - 100.0) * 2.0
    excess = image - np.median(image, axis=0)
    rows, column = slice(event.row_start, event.row_stop + 1), round(event.x)
    box = excess[rows, max(column - 2, 0) : column + 3]
    noise = np.sqrt(np.median(image) + 25) * np.sqrt(box.size)
    assert box.sum() / noise > 15
    assert frame.readout.quadrant == quadrant
    assert event.file == path.name == "simulated_c03_000.fits"


def test_headers_say_what_the_contract_says(tmp_path):
    settings = SceneSettings(rows=40, files=3, events=1, kinds=("burst",), suffix=".fits.fz", first_row=5)
    path, truth, stars = simulate_file(settings, 2, 2, tmp_path)
    assert path.name == "simulated_c02_002.fits.fz"
    info = read_frame_info(path)  # recognised by its header
    readout = info.readouts[3]
    assert (info.n_rows, sorted(info.readouts), dict(info.skipped)) == (40, [1, 2, 3, 4], {})
    assert (readout.first_row, readout.shutter_open_utc) == (85, settings.shutter_open_utc)
    assert (readout.ccd, readout.band, readout.zero_point_mag, readout.sequence) == (2, "r", 24.49, "simulated")
    with fits.open(path) as hdus:
        assert [hdu.header["AMP_ID"] for hdu in hdus[1:]] == [1, 2, 3, 4, 1, 2, 3, 4]
        assert [hdu.data.shape for hdu in hdus[1:]] == [(40, 3072)] * 4 + [(40, 30)] * 4
        assert hdus[1].data.dtype == np.uint16
        assert hdus[0].data is None
    assert list(truth.columns) == list(TRUTH_COLUMNS)
    assert list(stars.columns) == list(STAR_COLUMNS)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_steady_pixels_do_not_depend_on_what_is_off(starry):
    starry = replace(starry, events=0)
    content = draw_content(starry, 1, 1, 0)
    data, overscan = render(starry, content, starry.generator(PIXELS, 1, 1, 0))
    # hash of the current photons; settings of atmosphere and detector change nothing while they are off
    expected = "a6ef1a008788f8ab84a52facab8003f1eef82d71b74b50de8b9249061f8e4ec5"
    assert hashlib.sha256(data.tobytes() + overscan.tobytes()).hexdigest() == expected
    windy = replace(starry, focus_rms=0.4, motion_s=1.0)
    again, _ = render(windy, draw_content(windy, 1, 1, 0), windy.generator(PIXELS, 1, 1, 0))
    np.testing.assert_array_equal(again, data)


def test_atmosphere_reaches_the_files(starry, tmp_path):
    images = {}
    for atmosphere in (False, True):
        path, truth, stars = simulate_file(replace(starry, atmosphere=atmosphere), 1, 0, tmp_path / str(atmosphere))
        images[atmosphere] = read_amplifier(path, 1, instrument=starry.instrument).pixels_adu, truth, stars
    assert np.any(images[True][0] != images[False][0])
    # the truth is that of the steady baseline
    pd.testing.assert_frame_equal(images[True][1], images[False][1])
    pd.testing.assert_frame_equal(images[True][2], images[False][2])


def test_three_suffixes_hold_the_same_pixels(starry, tmp_path):
    images = []
    for suffix in (".fits", ".fits.gz", ".fits.fz"):
        path, _, _ = simulate_file(replace(starry, suffix=suffix), 1, 0, tmp_path)
        images.append(read_amplifier(path, 2, instrument=starry.instrument).pixels_adu)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_any_order_of_tasks_gives_the_same_files(starry, tmp_path):
    settings = replace(starry, ccds=(1, 2), files=2)
    tasks = [(ccd, index) for ccd in settings.ccds for index in range(2)]
    forward = {task: simulate_file(settings, *task, tmp_path / "a") for task in tasks}
    backward = {task: simulate_file(settings, *task, tmp_path / "b") for task in tasks[::-1]}
    for task in tasks:
        assert forward[task][0].read_bytes() == backward[task][0].read_bytes()
    for folder, results in (("a", forward), ("b", backward)):
        write_tables(tmp_path / folder, [r[1] for r in results.values()], [r[2] for r in results.values()])
    for name in ("truth.parquet", "stars.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a" / name), pd.read_parquet(tmp_path / "b" / name))
    truth, stars = pd.read_parquet(tmp_path / "a/truth.parquet"), pd.read_parquet(tmp_path / "a/stars.parquet")
    assert truth.event_id.is_unique
    assert set(truth.file) <= {path.name for path, _, _ in forward.values()}
    # the stars of a quadrant are the same in both files, those of another are not
    groups = {
        key: group[["star_id", "x", "y0", "mag"]].reset_index(drop=True)
        for key, group in stars.groupby(["file", "quadrant"])
    }
    names = sorted({file for file, _ in groups})
    pd.testing.assert_frame_equal(groups[names[0], 1], groups[names[1], 1])
    assert not groups[names[0], 1].equals(groups[names[0], 2])
    assert not groups[names[0], 1].equals(groups[names[2], 1])


def test_files_of_a_sequence_join(starry, tmp_path):
    settings = replace(starry, rows=40, files=2, events=0, n_bright_stars=0, artefacts=False)
    frames = [
        read_amplifier(simulate_file(settings, 1, index, tmp_path)[0], 2, instrument=settings.instrument)
        for index in (0, 1)
    ]
    joined = np.concatenate([frame.pixels_adu for frame in frames])
    clock = np.concatenate([frame.readout.seconds(np.arange(40)) for frame in frames])
    np.testing.assert_allclose(clock, np.arange(80) / 300)
    sky = draw_scene(settings, 1, 2).sky_e_s * np.minimum(clock, 50 / 300)
    np.testing.assert_allclose((joined.mean(axis=1) - 100) * 2, sky, atol=5 * np.sqrt((sky.max() + 25) / 64))


def test_steady_state_says_nothing_of_its_first_row(tiny, tmp_path):
    path, _, _ = simulate_file(replace(tiny, first_row=None, rows=20), 1, 0, tmp_path)
    assert read_frame_info(path, instrument=tiny.instrument).readouts[1].first_row is None


def test_no_events_no_stars_are_empty_tables_with_all_columns(tiny, tmp_path):
    _, truth, stars = simulate_file(replace(tiny, rows=20), 1, 0, tmp_path)
    paths = write_tables(tmp_path, [truth], [stars])
    assert list(pd.read_parquet(paths[0]).columns) == list(TRUTH_COLUMNS)
    assert list(pd.read_parquet(paths[1]).columns) == list(STAR_COLUMNS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, r"\[rows\] = 0: input should be greater than or equal to 1"),
        ({"ccds": (1, 1)}, r"\[ccds\] = \(1, 1\): a CCD is named twice"),
        ({"ccds": (16, 17)}, r"\[ccds\] = \(16, 17\): the mosaic has CCDs 1 to 16"),
        ({"ccds": (0, 1)}, r"\[ccds\] entry 0 = 0: input should be greater than or equal to 1"),
        ({"events": -1}, r"\[events\] = -1: input should be greater than or equal to 0"),
        ({"rho": (8.0, 4.0)}, r"\[rho\] = \(8\.0, 4\.0\): the smallest comes first"),
        ({"rho": (0.0, 4.0)}, r"\[rho\] entry 0 = 0\.0: input should be greater than 0"),
        ({"bright_mag": 18.0}, r"bright_mag 18\.0 must be below faint_mag 17\.0"),
        ({"kinds": ("nova",)}, r"\[kinds\] entry 0 = 'nova': no kind of event; known are flare, burst"),
        ({"kinds": ()}, r"\[kinds\] = \(\): tuple should have at least 1 item"),
        ({"suffix": ".png"}, r"\[suffix\] = '\.png': no suffix of frames; known are \.fits"),
        ({"band": "z"}, r"band 'z' has no zero point"),
        ({"shutter_close_row": 0}, r"\[shutter_close_row\] = 0: input should be greater than or equal to 1"),
        ({"shutter_close_row": 9, "first_row": None}, r"needs a first_row \(is None\) to count from"),
        ({"shutter_open_utc": "noon"}, r"\[shutter_open_utc\] = 'noon': not ISO 8601, such as 2026-03-04T05:06:07"),
    ],
)
def test_settings_that_contradict(changes, message):
    with pytest.raises(SceneError, match=message):
        SceneSettings(**changes)


def test_a_profile_without_electronics_cannot_be_simulated(tiny, tmp_path):
    path = tmp_path / "silent.toml"
    path.write_text(Path(tiny.instrument).read_text().replace("gain_e_per_adu = 2.0\n", ""))
    with pytest.raises(SceneError, match=r"silent\.toml needs \[defaults\] gain_e_per_adu to be simulated"):
        simulate_file(replace(tiny, instrument=str(path)), 1, 0, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_profile_with_a_gap_between_its_hdus_cannot_be_simulated(tiny, tmp_path):
    path = tmp_path / "gap.toml"
    path.write_text(Path(tiny.instrument).read_text().replace("overscan_hdu = 4", "overscan_hdu = 6"))
    with pytest.raises(SceneError, match=r"gap\.toml: HDUs \[6\] do not follow on 1\.\.3"):
        simulate_file(replace(tiny, instrument=str(path), rows=5), 1, 0, tmp_path / "out")


def test_too_many_events_are_refused(tiny):
    settings = replace(tiny, events=50, rows=60, kinds=("burst",))
    with pytest.raises(
        SceneError, match=r"only \d+ of 50 events of kinds \('burst',\) fit into 60 rows and 64 columns"
    ):
        draw_content(settings, 1, 1, 0)


def test_a_cut_simulation_is_not_read_as_whole(starry, tmp_path):
    path, _, _ = simulate_file(replace(starry, suffix=".fits.fz"), 1, 0, tmp_path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(FrameError, match=r"is not a complete FITS file"):
        read_amplifier(path, 1, instrument=starry.instrument)


def test_scene_is_a_value():
    assert isinstance(draw_scene(SceneSettings(), 1, 1), Scene)
    np.testing.assert_array_equal(draw_scene(SceneSettings(), 1, 1).x, draw_scene(SceneSettings(), 1, 1).x)


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_pieces_make_up_a_light_curve(kind):
    rng = np.random.default_rng(5)
    for _ in range(3):
        event = draw_event(rng, kind, row_rate_hz=300.0, n_rows=7000, x=30.0)
        whole = event.light_curve(7000, 0.84)
        np.testing.assert_allclose(light_curve_by_pieces(event, 7000, 0.84), whole, rtol=1e-6, atol=1e-9)
