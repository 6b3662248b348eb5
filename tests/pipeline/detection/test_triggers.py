from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection import triggers as triggers_module
from shutterless.pipeline.detection.scan import scan
from shutterless.pipeline.detection.templates import shape_bank
from shutterless.pipeline.detection.trigger_fit import reach_of
from shutterless.pipeline.detection.triggers import TRIGGER_COLUMNS, _inside, characterise, find_triggers
from shutterless.pipeline.events.events import Event, event_stamp, optimal_rho, scale_to_rho
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.simulation.camera.artefacts import draw_cosmic_ray

SIGMA_PX, SIGMA_E = 0.84, 20.0


def make_amplifier(residual: np.ndarray, streak_x=()) -> Amplifier:
    """Amplifier in memory with these residuals (x, t) and a noise of 20 e-."""
    return flat_amplifier(residual, sky_e=300.0, sigma_e=SIGMA_E, sigma_px=SIGMA_PX, streak_x=streak_x, first_id=7)


def inject(residual: np.ndarray, event: Event, rho: float) -> Event:
    """Add an event of optimal S/N ``rho`` in place; the event with its amplitude."""
    curve, first, profile = event_stamp(event, residual.shape[1], residual.shape[0], SIGMA_PX)
    event = scale_to_rho(event, optimal_rho(np.outer(curve, profile), SIGMA_E**2), rho)
    residual[first : first + len(profile)] += event.amplitude_e * np.outer(profile, curve) / SIGMA_E
    return event


def noise(seed: int, shape=(64, 6000)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


EVENTS = {
    "3 rows": Event("burst", 30.3, 3000.2, 3.0, 1.0, shape=(("profile", "tophat"),)),
    "40 rows": Event("burst", 30.0, 3000.0, 40.0, 1.0, shape=(("profile", "tophat"),)),
    "500 rows": Event("burst", 31.5, 3000.0, 500.0, 1.0, shape=(("profile", "tophat"),)),
    "Gaussian": Event("burst", 30.2, 3000.0, 25.0, 1.0, shape=(("profile", "gaussian"),)),
    "flare": Event("flare", 30.2, 2500.0, 60.0, 1.0),
    "occultation": Event("occultation", 30.2, 3000.0, 10.0, -1.0, shape=(("radius", 1.0), ("impact", 0.2))),
    "at the edge": Event("burst", 0.3, 3000.0, 20.0, 1.0, shape=(("profile", "tophat"),)),
    "at the start": Event("burst", 30.0, 6.0, 10.0, 1.0, shape=(("profile", "tophat"),)),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_injected_event_is_found_where_it_is_with_its_signal_to_noise(event, seed):
    residual = noise(seed)
    event = inject(residual, event, 20.0)
    triggers = find_triggers(make_amplifier(residual))
    best = triggers.loc[triggers["snr"].abs().idxmax()]
    assert abs(best["snr"]) == pytest.approx(20, abs=4)  # noise of 1, and up to 8 % of a shape that is not in the bank
    assert np.sign(best["snr"]) == np.sign(event.amplitude_e)
    assert best["x"] == pytest.approx(event.x, abs=0.5)
    assert best["row_start"] - 5 <= event.row_peak <= best["row_stop"] + 5
    assert best["veto"] == ""


def test_amplitude_and_rows_of_a_bright_box_are_recovered():
    residual = noise(3)
    event = inject(residual, replace(EVENTS["40 rows"], scale_rows=48.0), 200.0)  # a width of the bank
    triggers = find_triggers(make_amplifier(residual))
    best = triggers.loc[triggers["snr"].idxmax()]
    assert best["snr"] == pytest.approx(200, rel=0.03)
    assert best["amplitude_e"] == pytest.approx(event.amplitude_e, rel=0.05)
    # the central 90 % of 48 rows around 3000
    assert (best["row_start"], best["row_stop"]) == (pytest.approx(2978, abs=4), pytest.approx(3022, abs=4))
    assert best["shape"] == "box"


def test_signal_to_noise_of_many_injections_scatters_by_one():
    values = []
    for seed in range(12):
        residual = noise(100 + seed, (40, 1500))
        inject(residual, replace(EVENTS["40 rows"], x=20.0, row_peak=700.0), 15.0)
        values.append(find_triggers(make_amplifier(residual))["snr"].max())
    # the best of many shapes and places is a little above the optimum
    assert np.mean(values) == pytest.approx(15.2, abs=0.9)
    assert np.std(values) < 1.7


def test_cosmic_rays_are_vetoed_by_their_shape():
    rng = np.random.default_rng(5)
    residual = noise(5, (128, 6000))
    rows = np.arange(300, 5800, 250)
    for row in rows:
        ray = draw_cosmic_ray(rng, float(row), float(rng.uniform(10, 118)), 6000, 128)
        residual[ray.columns, ray.rows] += ray.charge_e / SIGMA_E
    triggers = find_triggers(make_amplifier(residual))
    bright = triggers[triggers["snr"].abs() > 10]
    assert len(bright) >= len(rows) - 4
    assert bright["veto"].isin(["sharp", "shape"]).mean() > 0.9


def test_single_hot_pixel_is_vetoed_and_sharp():
    residual = noise(6)
    residual[30, 3000] += 40
    best = find_triggers(make_amplifier(residual)).sort_values("snr").iloc[-1]
    assert best["veto"] == "sharp"
    # one pixel has 40 sigma; the point-spread function over it collects 0.79 of that along each axis
    assert best["sharpness"] == pytest.approx(1 / 0.79**2, rel=0.15)


def test_row_shared_by_all_columns_is_vetoed():
    residual = noise(7)
    residual[:, 3000:3004] += 5
    triggers = find_triggers(make_amplifier(residual))
    strong = triggers[triggers["snr"].abs() > 7]
    assert len(strong) > 5
    assert (strong["veto"] != "").all()


def test_same_rows_elsewhere_are_vetoed():
    residual = noise(8, (96, 3000))
    for x in (15.0, 45.0, 75.0):
        inject(residual, replace(EVENTS["3 rows"], x=x, row_peak=1500.0), 20.0)
    triggers = find_triggers(make_amplifier(residual))
    three = triggers[triggers["snr"] > 12]
    assert three["n_same_row"].tolist() == [2, 2, 2]
    assert three["veto"].tolist() == ["same row"] * 3


def test_trigger_knows_its_streak():
    residual = noise(9)
    inject(residual, EVENTS["40 rows"], 20.0)
    on_star = find_triggers(make_amplifier(residual, streak_x=[10.0, 30.4])).sort_values("snr").iloc[-1]
    orphan = find_triggers(make_amplifier(residual, streak_x=[10.0, 33.0])).sort_values("snr").iloc[-1]
    assert on_star["streak_id"] == 8
    assert orphan["streak_id"] is pd.NA


def test_event_half_under_a_mask_keeps_what_is_left():
    residual = noise(10)
    event = inject(residual, EVENTS["40 rows"], 30.0)
    residual[:, 3005:3020] = np.nan
    best = find_triggers(make_amplifier(residual)).sort_values("snr").iloc[-1]
    assert best["snr"] == pytest.approx(30 * np.sqrt(25 / 40), abs=4)
    assert best["x"] == pytest.approx(event.x, abs=0.5)


@pytest.mark.parametrize("width", [1, 6, 48, 512])
def test_snr_is_the_highest_of_all_places_times_and_shapes(width):
    """A plain search over all of them, on a patch with masked pixels and rows beyond the end of the file."""
    residual = noise(12, (40, 3000))
    residual[18:23, 2600 : 2600 + width] += 8 / np.sqrt(width)
    residual[19, 2590:2610] = np.nan
    amplifier = make_amplifier(residual)
    hit = pd.DataFrame({"y": [0], "x": [20], "row_start": [2600 - 2600 % max(width // 8, 1)], "width_rows": [width]})
    (found,) = characterise(amplifier, hit).itertuples()
    bank = shape_bank(width, SIGMA_PX)
    first = hit["row_start"][0] + (width - 1) // 2 - (bank.pre + 2 * bank.max_shift) * bank.bin_rows
    n_bins = bank.kernels.shape[1]
    rows = np.pad(amplifier.residual[0, 15:26].astype(np.float64), ((0, 0), (6000, 12000)), constant_values=np.nan)
    best = 0.0
    for shift in range(bank.max_shift, 3 * bank.max_shift + 1):
        start = 6000 + first + shift * bank.bin_rows - (bank.bin_rows - 1) // 2
        bins = rows[:, start : start + n_bins * bank.bin_rows].reshape(11, n_bins, bank.bin_rows)
        light, live = np.nansum(bins, axis=2) / np.sqrt(bank.bin_rows), np.isfinite(bins).mean(axis=2)
        for place in np.arange(-0.75, 0.76, 0.25):
            profile = pixel_profile(np.arange(-5, 6) - place, SIGMA_PX)[1:-1]
            profile /= np.linalg.norm(profile)
            for kernel in bank.kernels:
                coverage = profile**2 @ live[1:-1] @ kernel**2
                snr = profile @ light[1:-1] @ kernel / np.sqrt(coverage) if coverage > 0.5 else 0
                best = snr if abs(snr) > abs(best) else best
    assert found.snr == pytest.approx(best, rel=1e-4)
    assert best > 4


def test_hits_are_measured_alone_as_together_and_keep_their_order():
    residual = noise(13)
    for k, event in enumerate(EVENTS.values()):
        inject(residual, replace(event, x=5.0 + 7 * k, row_peak=500.0 + 600 * k), 15.0)
    amplifier = make_amplifier(residual)
    hits = scan(amplifier, 4.5).sample(frac=1, random_state=1)
    together = characterise(amplifier, hits)
    alone = pd.concat([characterise(amplifier, hits.iloc[[i]]) for i in range(len(hits))], ignore_index=True)
    alone = alone[~alone[["x", "y", "row_peak", "shape"]].duplicated()].reset_index(drop=True)
    same = [name for name in TRIGGER_COLUMNS if name not in ("n_same_row", "veto", "trail_id", "n_trail")]
    assert len(together) > 15
    assert together["width_rows"].nunique() > 4
    pd.testing.assert_frame_equal(together[same], alone[same], check_exact=True)


def test_no_triggers_are_an_empty_table_with_all_columns():
    triggers = find_triggers(make_amplifier(np.zeros((20, 300))))
    assert len(triggers) == 0
    assert tuple(triggers) == TRIGGER_COLUMNS
    found = find_triggers(make_amplifier(inject_one()))
    assert tuple(found) == TRIGGER_COLUMNS
    assert (triggers.dtypes == found.dtypes).all()


def inject_one() -> np.ndarray:
    residual = noise(11, (64, 4000))
    inject(residual, EVENTS["40 rows"], 20.0)
    return residual


def test_triggers_do_not_depend_on_what_was_searched_before():
    """Templates are cached between searches; another point-spread function must not get those of the one before."""
    amplifier = make_amplifier(inject_one())
    wide = replace(amplifier, psf_sigma_px=1.6, smear_rows=1.6)
    before = amplifier.residual.copy()
    own, after_another = find_triggers(amplifier, 4.0), find_triggers(wide, 4.0)
    for cached in (shape_bank, reach_of, triggers_module._cached_template_quality, triggers_module._templates):
        cached.cache_clear()
    pd.testing.assert_frame_equal(find_triggers(wide, 4.0), after_another, check_exact=True)
    pd.testing.assert_frame_equal(find_triggers(amplifier, 4.0), own, check_exact=True)
    np.testing.assert_array_equal(amplifier.residual, before)
    assert min(len(own), len(after_another)) > 30
    assert after_another["snr"].max() < own["snr"].max() - 1  # it does depend on the star image


def test_light_inside_is_what_falls_on_pixels_that_exist():
    """A quarter of the light is on either side of the middle; sources on the first and last of ten pixels lose one."""
    light = np.tile([0.25, 0.5, 0.25], (3, 1))
    assert _inside(light, np.array([0, 5, 9]), 1, 10).tolist() == [0.75, 1.0, 0.75]


@pytest.mark.parametrize("width", [1, 6, 64, 1024])
def test_shape_bank_holds_unit_templates_around_its_box(width):
    bank = shape_bank(width, SIGMA_PX)
    np.testing.assert_allclose(np.linalg.norm(bank.kernels, axis=1), 1, rtol=1e-5)
    box = 1  # the box of the width itself: its central 90 %
    rows = (bank.stop[box] - bank.start[box] + 1) * bank.bin_rows
    assert rows == pytest.approx(0.9 * width + 2, abs=2 + 2 * bank.bin_rows)
    assert abs(bank.start[box] + bank.stop[box]) <= 1
