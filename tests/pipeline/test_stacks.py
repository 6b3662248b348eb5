"""Stacks of images go through the functions of continuous readout, with y treated as x."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.metrics import cluster_detections
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.scan import footprint, scan
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.events import Event
from shutterless.pipeline.examples.strips import check_grid, cut_strips
from shutterless.pipeline.examples.training import hide_events
from shutterless.pipeline.injection.amplifiers import (
    InjectionSettings,
    add_injection,
    inject_events,
    kinds_for,
    stamp_injection,
)
from shutterless.pipeline.psf import stack_profile
from shutterless.pipeline.reading.readout import Readout, RowTimes
from shutterless.pipeline.results.candidates import build_candidates
from shutterless.pipeline.tokens import GridError, TokenGrid, unpatchify

N_Y, N_X, N_ROWS, SIGMA_PX, SIGMA_E, SKY_E = 7, 9, 400, 0.6, 20.0, 300.0
CADENCE_S = 1800.0
GRID = TokenGrid(n_y=3, n_columns=5, n_rows=32, patch_rows=4, bins=(1, 4))
SCALES_S = {"flare": (900.0, 7200.0), "burst": (1800.0, 18000.0)}
TOPHAT = (("profile", "tophat"),)
BURST = Event("burst", 4.6, 200.0, 4.0, 1.0, shape=TOPHAT, y=3.2)


def make_stack(residual: np.ndarray, stars=(), sigma_px: float = SIGMA_PX, **changes) -> Amplifier:
    """Stack in memory with these residuals (y, x, t), a noise of 20 e-, and stars at (y, x, electrons per row)."""
    n_rows = residual.shape[2]
    streaks = pd.DataFrame({name: pd.Series(dtype="float64") for name in STREAK_COLUMNS})
    if stars:
        streaks[["y", "x", "flux_e_row"]] = np.asarray(stars, dtype=np.float64)
        streaks["streak_id"] = np.arange(len(stars))
    elapsed = np.arange(n_rows, dtype=np.float64)
    times = RowTimes(CADENCE_S * elapsed, 2000.0 + elapsed / 48)
    known = {"zero_point_mag": 25.0, "row_times": times, "time_scale": "BJD - 2454833 (TDB)"}
    amplifier = Amplifier(
        residual=residual.astype(np.float32),
        baseline_e=np.full(residual.shape, SKY_E, np.float32),
        sigma_e=np.full(residual.shape, SIGMA_E, np.float32),
        row_residual=np.zeros(n_rows, np.float32),
        streaks=streaks,
        readout=Readout(1 / CADENCE_S, 1.0, 0.0, np.inf, 0, 0, "2026-03-04T05:06:07", "stack", **known),
        file="stack.fits",
        entry="stack_c00_q0",
        psf_sigma_px=sigma_px,
        live_pixel_rows=int(np.isfinite(residual).sum()),
        sky_e=SKY_E,
        sky_sigma_e=SIGMA_E,
        block_rows=1,
        smear_rows=0.01,
        token_grid=asdict(GRID),
        event_scales_s=SCALES_S,
    )
    return replace(amplifier, **changes)


def noise(seed: int, shape=(N_Y, N_X, N_ROWS)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def add_source(residual: np.ndarray, y: float, x: float, curve: dict[int, float], sigma_px: float = SIGMA_PX) -> None:
    """Add a source in place: its optimal S/N in each row."""
    n_y, n_x, _ = residual.shape
    light = stack_profile(np.arange(n_y) - y, np.arange(n_x) - x, sigma_px, n_y)
    for row, snr in curve.items():
        residual[:, :, row] += snr * light / np.linalg.norm(light)


def strongest(amplifier: Amplifier) -> pd.Series:
    triggers = find_triggers(amplifier)
    return triggers.loc[triggers["snr"].abs().idxmax()]


# --- scan and triggers ---


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("y", "x"), [(3.0, 4.0), (3.4, 4.6), (1.8, 6.3), (5.1, 2.5)])
def test_burst_is_found_where_and_when_it_is(y, x, seed):
    """Four rows of S/N 10 each are one event of 20."""
    residual = noise(seed)
    add_source(residual, y, x, dict.fromkeys(range(200, 204), 10.0))
    best = strongest(make_stack(residual))
    assert best["snr"] == pytest.approx(20, abs=3)
    assert (best["y"], best["x"]) == (pytest.approx(y, abs=0.3), pytest.approx(x, abs=0.3))
    assert (best["row_start"], best["row_stop"]) == (pytest.approx(200, abs=1), pytest.approx(203, abs=1))
    assert 200 <= best["row_peak"] <= 203
    assert best["veto"] == ""


def test_amplitude_is_in_electrons_of_the_whole_source():
    residual = np.zeros((N_Y, N_X, N_ROWS))
    light = stack_profile(np.arange(N_Y) - 3.0, np.arange(N_X) - 4.0, SIGMA_PX, N_Y)
    residual[:, :, 200:204] = (5000 * light / SIGMA_E)[:, :, None]
    best = strongest(make_stack(residual))
    assert best["amplitude_e"] == pytest.approx(5000, rel=0.01)
    assert best["snr"] == pytest.approx(np.sqrt(4 * np.sum((5000 * light / SIGMA_E) ** 2)), rel=0.01)


def test_signal_to_noise_scatters_by_one_around_the_optimum():
    found = []
    for seed in range(30):
        residual = noise(seed, (N_Y, N_X, 60))
        add_source(residual, 3.2, 4.3, {30: 12.0})
        found.append(strongest(make_stack(residual))["snr"])
    # the best of many places and shapes is a little above the optimum
    assert np.mean(found) == pytest.approx(12.3, abs=0.7)
    assert np.std(found) == pytest.approx(1, abs=0.4)


def test_noise_alone_triggers_as_rarely_as_it_should():
    """63,000 pixels and the places, widths and shapes tried in each: above 6 sigma there is a chance in a hundred."""
    found = find_triggers(make_stack(noise(4, (N_Y, N_X, 1000))), threshold=4.5)
    assert 0 < len(found) < 40
    assert found["snr"].abs().max() < 6


def test_light_in_single_pixels_is_what_one_row_of_them_sees():
    """With a point-spread function well within a pixel a stack gives what stacks one row high give of each row."""
    residual = noise(5, (3, 12, 500))
    for y, x, row in ((0, 1, 100), (1, 6, 200), (2, 10, 300)):
        residual[y, x, row : row + 3] += 8
    triggers = find_triggers(make_stack(residual, sigma_px=0.05))
    for y in range(3):
        alone = find_triggers(make_stack(residual[y : y + 1], sigma_px=0.05))
        here = triggers[triggers["y"].round() == y]
        assert len(here) == len(alone) == 1
        same = ["row_start", "row_stop", "row_peak", "width_rows", "shape"]
        assert here[same].to_numpy().tolist() == alone[same].to_numpy().tolist()
        np.testing.assert_allclose(here["snr"], alone["snr"], rtol=1e-3)


def test_kernels_have_unit_norm_in_corners_too():
    """And what lies beyond the stack has no weight: in a corner a quarter of the pixels of the middle is left."""
    amplifier = make_stack(np.zeros((N_Y, N_X, N_ROWS)))
    whole = np.count_nonzero(footprint(amplifier, 3, np.arange(N_X)).kernels[4])
    for y in range(N_Y):
        near = footprint(amplifier, y, np.arange(N_X))
        np.testing.assert_allclose(np.sum(near.kernels**2, axis=1), 1, rtol=1e-5)
        assert near.taps.max() < N_Y * N_X
    corner = footprint(amplifier, 0, np.arange(N_X)).kernels[0]
    half = int(np.sqrt(whole)) // 2
    assert (whole, np.count_nonzero(corner)) == ((2 * half + 1) ** 2, (half + 1) ** 2)


def test_kernel_is_centred_on_the_star_of_its_pixel():
    """Light of a star a third of a pixel off, that no kernel around its pixel would hold in full."""
    residual = np.zeros((N_Y, N_X, N_ROWS))
    add_source(residual, 3.35, 3.7, {200: 20.0})
    known, unknown = (scan(make_stack(residual, stars)).iloc[0] for stars in (((3.35, 3.7, 1000.0),), ()))
    assert (known["y"], known["x"]) == (3, 4)
    assert known["snr"] == pytest.approx(20, rel=1e-3)
    assert unknown["snr"] < 18


# --- vetoes ---


def test_one_bright_pixel_is_sharp_and_a_flash_is_not():
    residual = noise(6)
    residual[3, 4, 100] += 30
    add_source(residual, 3.1, 4.2, {300: 30.0})
    bright = find_triggers(make_stack(residual)).query("snr > 15")
    assert bright["row_peak"].tolist() == [100, 300]
    assert bright["veto"].tolist() == ["sharp", ""]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("track", [[(3, 4), (3, 5)], [(2, 4), (3, 5)], [(2, 4), (3, 4), (4, 4), (5, 4)]])
def test_tracks_in_one_image_are_vetoed(track, seed):
    residual = noise(seed)
    for y, x in track:
        residual[y, x, 200] += 20
    assert strongest(make_stack(residual))["veto"] in ("sharp", "shape")


@pytest.mark.parametrize(("y", "x"), [(-0.5, 4.0), (3.0, 8.6), (6.5, -0.5)])
def test_source_cut_by_the_border_says_nothing_of_its_shape(y, x):
    residual = noise(7)
    add_source(residual, y, x, {200: 30.0})
    best = strongest(make_stack(residual))
    assert best["light_inside"] < 0.8
    assert best["veto"] == "edge"


@pytest.mark.parametrize("phase", [(0.0, 0.0), (0.5, 0.5), (0.25, -0.4), (-0.5, 0.1)])
@pytest.mark.parametrize("snr", [8.0, 30.0, 300.0])
def test_flash_at_any_place_within_a_pixel_passes(phase, snr):
    residual = noise(8)
    add_source(residual, 3 + phase[0], 4 + phase[1], {200: snr})
    best = strongest(make_stack(residual))
    assert best["row_peak"] == 200
    assert best["veto"] == ""


def test_light_in_every_pixel_of_an_image_is_vetoed():
    residual = noise(9)
    residual[:, :, 200:203] += 5
    assert (find_triggers(make_stack(residual)).query("abs(snr) > 8")["veto"] != "").all()


@pytest.mark.parametrize("masked", [[200], [200, 201], [199, 201], [198, 199, 202]])
def test_peak_row_of_a_trigger_is_never_masked(masked):
    """A flare of which the brightest or some other rows were lost: its peak is the brightest row that was seen."""
    flare = {200 + k: 40 * 0.6**k for k in range(8)}
    for seed in range(3):
        residual = noise(seed)
        add_source(residual, 3.2, 4.3, flare)
        residual[:, :, masked] = np.nan
        residual[2, 2, 195:205] = np.nan
        best = strongest(make_stack(residual))
        seen = max((row for row in flare if row not in masked), key=flare.get)
        assert abs(best["row_peak"] - seen) <= 1
        assert best["row_peak"] not in masked


def test_no_trigger_of_a_stack_full_of_holes_peaks_in_one():
    residual = noise(10, (N_Y, N_X, 1500))
    rng = np.random.default_rng(3)
    masked = rng.random(1500) < 0.3
    for row in range(20, 1480, 30):
        add_source(residual, *rng.uniform(1, 6, 2), {row + k: 12.0 for k in range(int(rng.integers(1, 7)))})
    residual[:, :, masked] = np.nan
    triggers = find_triggers(make_stack(residual))
    assert len(triggers) > 30
    assert not masked[triggers["row_peak"]].any()


# --- injection ---


def test_optimum_of_an_injected_event_is_that_of_the_matched_filter():
    """Over 60 draws of noise the filter of the exact shape has rho on average, to 1 / √60."""
    found = []
    for seed in range(60):
        amplifier = make_stack(noise(seed, (N_Y, N_X, 40)))
        event = replace(BURST, row_peak=20.0, amplitude_e=400.0)
        change = stamp_injection(amplifier, event)
        add_injection(amplifier, change, np.random.default_rng(seed))
        window = (change.y, change.columns, change.rows_lit)
        shape = change.signal_e() / SIGMA_E
        found.append(np.sum(shape * amplifier.residual[window]) / np.linalg.norm(shape))
    assert change.rho > 10
    assert np.mean(found) == pytest.approx(change.rho, abs=3.5 / np.sqrt(60))


def test_injected_electrons_lie_in_their_pixels_and_rows():
    amplifier = make_stack(np.zeros((N_Y, N_X, N_ROWS)))
    change = stamp_injection(amplifier, replace(BURST, amplitude_e=5000.0))
    add_injection(amplifier, change, np.random.default_rng(0))
    charge = amplifier.residual * SIGMA_E
    assert charge.sum() == pytest.approx(4 * 5000, abs=5 * np.sqrt(4 * 5000))
    assert charge.sum(axis=(0, 1))[change.rows[0] : change.rows[1] + 1].sum() > 0.89 * charge.sum()
    y, x = (np.average(np.arange(n), weights=charge.sum(axis=axes)) for n, axes in ((N_Y, (1, 2)), (N_X, (0, 2))))
    assert (y, x) == (pytest.approx(3.2, abs=0.05), pytest.approx(4.6, abs=0.05))
    assert change.truth()[2:4] == (4.6, 3.2)


def test_injections_are_found_and_matched():
    """One in each of twenty stacks, of the kinds and scales of the stack: all above 12 sigma, three in four found."""
    settings = InjectionSettings(kinds=(("flare", 0.5), ("burst", 0.5)), rho=(12.0, 20.0), partial=0.0)
    n_found, truths = 0, []
    for seed in range(20):
        amplifier = make_stack(noise(seed), stars=[(3.2, 4.4, 50_000.0)])
        injected, truth = inject_events(amplifier, np.random.default_rng(seed), settings, 1)
        n_found += (match_truth(find_triggers(injected), truth) == 0).any()
        truths.append(truth)
    truth = pd.concat(truths)
    assert len(truth) >= 18
    assert set(truth["kind"]) == {"flare", "burst"}
    on_star = truth[truth["star_id"] >= 0]
    assert set(on_star["kind"]) == {"flare", "burst"}
    np.testing.assert_array_equal(on_star[["y", "x"]], np.tile([3.2, 4.4], (len(on_star), 1)))
    assert truth["rho"].between(12, 20).all()
    assert n_found >= 0.9 * len(truth)


def test_cosmic_rays_lie_in_one_row():
    """Their tracks run over the detector, y and x of one image."""
    amplifier = make_stack(np.zeros((N_Y, N_X, 4000)))
    settings = InjectionSettings(faintest_ray=1.0)
    injected, truth = inject_events(amplifier, np.random.default_rng(1), settings, 0, n_cosmic_rays=15)
    assert len(truth) > 8
    assert set(truth["kind"]) == {"cosmic_ray"}
    assert (truth["row_start"] == truth["row_stop"]).all()
    rows = np.flatnonzero(injected.residual.any(axis=(0, 1)))
    np.testing.assert_array_equal(rows, np.sort(truth["row_peak"]))
    charge = SIGMA_E * injected.residual.sum(axis=(0, 1))[truth["row_peak"]]
    np.testing.assert_allclose(charge, truth["amplitude_e"], rtol=1e-4)
    brightest = injected.residual[:, :, truth["row_peak"]].reshape(-1, len(truth)).argmax(axis=0)
    np.testing.assert_array_equal(np.divmod(brightest, N_X), truth[["y", "x"]].to_numpy().T)


def test_kinds_that_a_stack_does_not_know_are_not_injected():
    amplifier = make_stack(np.zeros((N_Y, N_X, N_ROWS)))
    kinds, shares = kinds_for(amplifier, InjectionSettings())  # flares, bursts, occultations and glints
    assert (kinds, shares.tolist()) == (["flare", "burst"], pytest.approx([3 / 7, 4 / 7]))
    settings = InjectionSettings(kinds=(("occultation", 0.5), ("glint", 0.5)))
    with pytest.raises(ValueError, match=r"\['occultation', 'glint'\] none is known .* only \['burst', 'flare'\]"):
        inject_events(amplifier, np.random.default_rng(0), settings, 1)


# --- examples ---


def test_hidden_events_of_a_stack_are_masked_around_their_pixel():
    """Four rows, three before and eight after them, in the seven pixels along each axis that a source there lights."""
    residual = np.zeros((12, 12, N_ROWS))
    add_source(residual, 5.0, 6.0, dict.fromkeys(range(200, 204), 10.0))
    hidden = hide_events(make_stack(residual), 8.0)
    masked = np.argwhere(np.isnan(hidden.residual))
    assert masked.min(axis=0).tolist() == [2, 3, 197]
    assert masked.max(axis=0).tolist() == [8, 9, 211]
    assert len(masked) == 7 * 7 * 15
    assert find_triggers(hidden).empty


# --- strips ---


def cut(residual: np.ndarray, places) -> np.ndarray:
    """Strips (b, y, x, t) around places (y, x, row)."""
    columns = ("snr", "width_rows", "chi2_excess", "chi2_significance", "sharpness", "flatness", "n_same_row")
    triggers = pd.DataFrame({name: np.ones(len(places)) for name in columns})
    triggers[["y", "x", "row_start"]] = places
    triggers["row_stop"] = triggers["row_start"]
    return unpatchify(cut_strips(make_stack(residual), triggers, GRID).patches, GRID)  # (b, n, y, x, r)


def test_strip_at_the_border_is_one_of_a_larger_stack_of_zeros():
    residual = noise(11)
    wide = np.zeros((N_Y + 4, N_X + 6, N_ROWS + 80))
    wide[2:-2, 3:-3, 40:-40] = residual
    places = np.array([(0, 0, 200), (6, 8, 200), (0, 8, 3), (3, 4, 200), (6, 0, 398), (2.4, 7.6, 50)])
    np.testing.assert_array_equal(cut(residual, places), cut(wide, places + np.array([2, 3, 40])))


def test_strip_holds_the_trigger_in_its_middle():
    residual = np.zeros((N_Y, N_X, N_ROWS))
    residual[5, 2, 200] = 7
    assert np.argwhere(cut(residual, [(5, 2, 200)])[0]).tolist() in ([[1, 2, 16]], [[4, 1, 2, 0]])


def test_profile_is_the_starlight_under_the_strip():
    amplifier = make_stack(np.zeros((N_Y, N_X, N_ROWS)))
    amplifier.baseline_e[4, 6] += 2 * SIGMA_E
    found = find_triggers(make_stack(noise(1))).iloc[:0]
    row = {**dict.fromkeys(found, 1.0), "y": 4.0, "x": 7.0, "row_start": 200, "row_stop": 200}
    profile = cut_strips(amplifier, pd.DataFrame([row]), GRID).profile
    assert np.argwhere(profile.reshape(3, 5)).tolist() == [[1, 1]]
    assert profile.max() == 2


def test_grids_of_stacks_and_of_continuous_readout_are_not_exchanged(make_amplifier):
    stack, frame = make_stack(np.zeros((N_Y, N_X, N_ROWS))), make_amplifier()
    flat = TokenGrid()
    check_grid(stack, GRID)
    check_grid(frame, flat)
    both = r"{} pixels \(y, x\), .* is like TokenGrid\(n_y={}, .*, but the model expects TokenGrid\(n_y={},"
    with pytest.raises(GridError, match=both.format("7 × 9", 3, 1)):
        check_grid(stack, flat)
    with pytest.raises(GridError, match=both.format("1 × 64", 1, 3)):
        check_grid(frame, GRID)
    with pytest.raises(GridError, match=r"train one on such a store, or search with --model template-bank"):
        cut_strips(stack, find_triggers(stack), flat)


# --- tables ---


def test_detections_match_truth_along_y_too():
    truth = pd.DataFrame({"x": [4.0, 4.0], "y": [1.0, 5.0], "row_start": 100, "row_stop": 103, "rho": [9.0, 10.0]})
    found = pd.DataFrame({"x": 4.0, "y": [1.5, 4.5, 8.0, 8.1], "row_start": 101, "row_stop": 102, "width_rows": 2.0})
    # 1.5 lies within 3 px of the first alone, 4.5 of the second alone, 8.0 just within, 8.1 beyond
    assert match_truth(found, truth).tolist() == [0, 1, 1, -1]
    assert match_truth(found, truth.assign(y=pd.array([1, 5], dtype="Int64"))).tolist() == [0, 1, 1, -1]
    assert match_truth(found.drop(columns="y"), truth.drop(columns="y")).tolist() == [1, 1, 1, 1]


def test_detections_apart_along_y_are_clusters_of_their_own():
    found = pd.DataFrame({"x": 4.0, "y": [0.0, 2.5, 5.5, 9.0], "row_start": 100, "row_stop": 102, "width_rows": 3.0})
    found["entry"] = "stack"
    assert cluster_detections(found).tolist() == [0, 0, 0, 1]
    assert cluster_detections(found.drop(columns="y")).tolist() == [0, 0, 0, 0]


def test_candidates_of_a_stack_have_a_place_and_the_time_of_the_archive():
    readout = make_stack(np.zeros((N_Y, N_X, N_ROWS))).readout
    streaks = make_stack(np.zeros((N_Y, N_X, N_ROWS)), stars=[(3.0, 4.0, 1000.0)]).streaks.assign(mag=12.5)
    rows = {"x": 4.25, "y": [2.6, 3.6], "row_start": 95, "row_stop": 98, "row_peak": 96, "snr": 9.0, "veto": ""}
    found = pd.DataFrame({**rows, "amplitude_e": 500.0, "streak_id": pd.array([0, None], dtype="Int64")})
    table = build_candidates(found, streaks, readout, file="stack.fits", model="bank", n_y=N_Y)
    assert table["y"].tolist() == [3, 4]
    assert table["candidate_id"].tolist() == [f"stack_c00_q0_y000{y}_x0004.25_r0000096" for y in (3, 4)]
    assert table["time_archive"].tolist() == [2002.0, 2002.0]  # 96 rows of a 48th of a day
    assert set(table["time_read_utc"]) == {"2026-03-06T05:06:07.000000"}
    for name in ("time_event_min_utc", "time_event_max_utc"):
        assert table[name].tolist() == table["time_read_utc"].tolist()
    assert table["duration_s"].tolist() == [4 * CADENCE_S] * 2
    assert table["star_mag"].tolist() == [12.5, pytest.approx(np.nan, nan_ok=True)]
    assert table["ccd"].isna().all()
    assert table["quadrant"].isna().all()


# --- part of a stack ---


@pytest.mark.parametrize("block_rows", [1, 64])
def test_part_of_a_stack_is_as_the_whole_there(block_rows):
    rng = np.random.default_rng(12)
    residual = noise(12)
    residual[:, :, 150:160] = np.nan
    n_blocks = -(-N_ROWS // block_rows)
    level = rng.uniform(100, 900, (N_Y, N_X, n_blocks)).astype(np.float32)
    whole = make_stack(residual, block_rows=block_rows, baseline_e=level, sigma_e=np.sqrt(level),
                       row_residual=np.arange(N_ROWS, dtype=np.float32))  # fmt: skip
    part = whole.between(130, 300)
    start = 130 if block_rows == 1 else 128
    assert (part.n_rows, part.n_y, part.n_columns) == (300 - start, N_Y, N_X)
    rows = np.arange(part.n_rows)
    np.testing.assert_array_equal(part.residual, whole.residual[:, :, start:300])
    np.testing.assert_array_equal(part.row_residual, start + rows)
    np.testing.assert_array_equal(part.readout.read_utc(rows), whole.readout.read_utc(start + rows))
    np.testing.assert_array_equal(part.readout.archive_time(rows), whole.readout.archive_time(start + rows))
    assert part.live_pixel_rows == N_Y * N_X * (300 - start - 10)
    everything = slice(None), slice(None)
    inside = slice(64, 128)  # of the part; the blocks at its ends have neighbours in the whole alone
    for name in ("sigma_rows", "level_rows"):
        own, of_whole = getattr(part, name)(*everything, 0, 170), getattr(whole, name)(*everything, start, start + 170)
        np.testing.assert_allclose(own[..., inside], of_whole[..., inside], rtol=1e-6)
        if block_rows == 1:
            np.testing.assert_array_equal(own, of_whole)
