"""Image cubes become residuals of unit noise: stars that drift and rotate go, a flare of known electrons stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_cubes import KEPLER_LIVE_S, star_images, write_kepler, write_plain

from shutterless.pipeline.calibration.cubes.calibrate import (
    CalibratedCube,
    calibrate_cube,
    cube_star_table,
    expected_noise,
)
from shutterless.pipeline.psf import stack_profile
from shutterless.pipeline.reading.cubes import Cube, read_cube
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.reading.readout import Readout

N_Y, N_X, N_ROWS, SIGMA_PX = 8, 10, 400, 0.6
SKY_E, READ_NOISE_E, EXPOSURE_S = 1e4, 500.0, 1625.0
STARS = ((4.2, 3.7, 2e6), (5.9, 7.3, 2e5))  # y, x, electrons per cadence
READOUT = Readout(
    1 / 1765.46, 1.0, 0.0, np.inf, 0, first_row=0, zero_point_mag=25.1, pixel_scale_arcsec=3.98, seeing_arcsec=6.0
)  # a Gaussian of 0.64 px, in windows of 49 rows
FLARE_ROW, FLARE_E = 200, 4e5 * np.array([1, 0.5, 0.25, 0.12, 0.06])


def saw_tooth(n_rows: int = N_ROWS, x_px: float = 0.4) -> np.ndarray:
    """Motion (y, x) of a telescope that is turned back every 12 rows, as K2's; along y half of that along x."""
    along = (np.arange(n_rows) % 12 / 11 - 0.5) * x_px
    return np.stack([-along / 2, along], axis=1)


def source(y: float, x: float, motion: np.ndarray) -> np.ndarray:
    """Unit light of a source that moves, shape (y, x, t)."""
    images = [stack_profile(np.arange(N_Y) - y - dy, np.arange(N_X) - x - dx, SIGMA_PX, N_Y) for dy, dx in motion]
    return np.stack(images, axis=2)


def starlight(motion: np.ndarray, rotation: float = 0.0) -> np.ndarray:
    """Light of the stars, which change by ``rotation`` in a sine of 10 days."""
    light = sum(flux * source(y, x, motion) for y, x, flux in STARS)
    return light * (1 + rotation * np.sin(2 * np.pi * np.arange(len(motion)) / 489))


def flare(motion: np.ndarray) -> np.ndarray:
    """Five rows of light of the first star, the electrons of `FLARE_E` in each."""
    curve = np.zeros(len(motion))
    curve[FLARE_ROW : FLARE_ROW + len(FLARE_E)] = FLARE_E
    return curve * source(*STARS[0][:2], motion)


def make_cube(light: np.ndarray, motion: np.ndarray | None = None, *, error_scale: float | None = 1.0) -> Cube:
    """Cube in memory with photon and read noise; its errors are true times ``error_scale``, or not there at all."""
    sigma = np.sqrt(light + SKY_E + READ_NOISE_E**2)
    flux = light + SKY_E + sigma * np.random.default_rng(1).standard_normal(light.shape)
    return Cube(
        flux_e=flux.astype(np.float32),
        error_e=None if error_scale is None else (error_scale * sigma).astype(np.float32),
        position_px=None if motion is None else motion[:, ::-1],  # column and row, as archives have it
        aperture=None,
        quality=np.zeros(light.shape[2], dtype=np.int64),
        exposure_s=EXPOSURE_S,
        readout=READOUT,
        profile=load_profile("kepler"),
        path=Path("memory.fits"),
        hdu=1,
        image=np.arange(1, light.shape[2] + 1),
    )


def scatter(calibrated: CalibratedCube) -> np.ndarray:
    """Robust scatter of the residual of each pixel, shape (y, x)."""
    return 1.4826 * np.median(np.abs(calibrated.residual), axis=2)


STILL = saw_tooth(x_px=0.0)
SKIES = {
    "still": (STILL, 0.0, False),
    "rotating": (STILL, 0.03, False),
    "drifting, motion given": (saw_tooth(), 0.03, True),
    "drifting, motion to be measured": (saw_tooth(), 0.03, False),
}


@pytest.fixture(scope="module", params=SKIES.values(), ids=SKIES)
def sky(request) -> tuple[Cube, CalibratedCube]:
    motion, rotation, given = request.param
    cube = make_cube(starlight(motion, rotation) + flare(motion), motion if given else None)
    return cube, calibrate_cube(cube)


def test_quiet_pixels_have_unit_noise(sky):
    """No pixel has more than 1; typical ones have a little less, since noise is raised by what it may be too low.

    Bright pixels lose some to the fit of the drift, most where motion is measured from the star's own light.
    """
    _, calibrated = sky
    found = scatter(calibrated)
    assert 0.7 < found.min() <= found.max() <= 1.0
    assert np.median(found) == pytest.approx(0.93, abs=0.04)
    # of the star's 500,000 e- in a pixel, which 0.4 px of drift would change by half, less than 1,000 are left
    assert calibrated.noise.max() < 1.8
    assert np.median(calibrated.noise) < 1.1


def test_nothing_stands_out_of_a_quiet_sky(sky):
    """Rows without the flare, those at the ends of the file and at turns of the telescope included."""
    _, calibrated = sky
    quiet = np.delete(calibrated.residual, range(FLARE_ROW, FLARE_ROW + len(FLARE_E)), axis=2)
    assert np.abs(quiet).max() < 6
    assert calibrated.cosmic_rays.empty


def test_electrons_of_a_flare_are_recovered(sky):
    _, calibrated = sky
    rows = slice(FLARE_ROW, FLARE_ROW + len(FLARE_E))
    found = (calibrated.sigma_e * calibrated.residual)[:, :, rows].sum(axis=(0, 1))
    # a star of 2e6 e-, 80 pixels of read noise: 5000 e- a row
    np.testing.assert_allclose(found, FLARE_E, atol=0.05 * FLARE_E[0])
    assert found.sum() == pytest.approx(FLARE_E.sum(), rel=0.05)


def test_level_noise_and_residual_are_the_light_that_came_in(sky):
    cube, calibrated = sky
    back = calibrated.level_e + calibrated.sigma_e * calibrated.residual
    np.testing.assert_allclose(back, cube.flux_e, atol=1)  # of half a million, in float32


def test_stars_are_found_with_their_light(sky):
    cube, calibrated = sky
    table = cube_star_table(cube, calibrated.stars)
    assert table["streak_id"].tolist() == [0, 1]
    np.testing.assert_allclose(table[["y", "x"]], [star[:2] for star in STARS], atol=0.06)
    np.testing.assert_allclose(table["flux_e_row"], [star[2] for star in STARS], rtol=0.03)
    np.testing.assert_allclose(table["mag"], 25.1 - 2.5 * np.log10(table["flux_e_row"] / EXPOSURE_S))
    assert table["y0"].isna().all()


@pytest.mark.parametrize("error_scale", [1.0, 1 / 3])
def test_motion_is_measured_where_there_is_some(error_scale):
    """Row by row to 0.01 px, but for a common factor: a star of 0.6 px is steeper than differences of its pixels."""
    motion = saw_tooth()
    found = calibrate_cube(make_cube(starlight(motion), error_scale=error_scale)).motion_px
    for axis in (0, 1):
        factor, offset = np.polyfit(motion[:, axis], found[:, axis], 1)
        assert factor == pytest.approx(1.2, abs=0.1)
        np.testing.assert_allclose(found[:, axis], factor * motion[:, axis] + offset, atol=0.01)


@pytest.mark.parametrize("error_scale", [1.0, 1 / 3])
def test_no_motion_is_measured_where_there_is_none(error_scale):
    """A change of brightness is no motion, nor is noise three times that in the file."""
    assert calibrate_cube(make_cube(starlight(STILL, 0.03), error_scale=error_scale)).motion_px is None


@pytest.mark.parametrize(("error_scale", "factor"), [(1 / 3, 3.0), (0.1, 10.0), (None, 5.1)])
def test_errors_that_are_too_small_are_scaled_up(error_scale, factor):
    """In pixels without a star, 100 of 510 e- are photons: the factor is 5.1 if the file has no errors."""
    calibrated = calibrate_cube(make_cube(starlight(STILL, 0.03), error_scale=error_scale))
    assert np.median(calibrated.noise) == pytest.approx(factor, rel=0.08)
    assert scatter(calibrated).max() <= 1.0


def test_errors_that_are_too_large_are_kept():
    calibrated = calibrate_cube(make_cube(starlight(STILL), error_scale=3.0))
    np.testing.assert_array_equal(calibrated.noise, 1)
    (note,) = calibrated.notes
    assert note.endswith("times what the errors in the file say")


def test_light_that_all_sky_pixels_share_is_taken_off_and_reported():
    """Clouds of 1,000 e- rms from row to row are subtracted up to the error of a median of 50 pixels of 510 e-.

    That is 1.25 × 510 / √50 = 90 e-, plus an eighth of 1,000 e-, which the trends of the pixels take.
    """
    cube = make_cube(starlight(STILL))
    shared = 1000 * np.random.default_rng(2).standard_normal(N_ROWS)
    clouded = replace(cube, flux_e=cube.flux_e + shared.astype(np.float32))
    calibrated, clear = calibrate_cube(clouded), calibrate_cube(cube)
    row_error = np.median(np.median(expected_noise(cube), axis=2))
    assert np.std(calibrated.row_residual * row_error - shared) == pytest.approx(np.hypot(90, 125), rel=0.3)
    assert np.std(clear.row_residual * row_error) == pytest.approx(90, rel=0.3)
    assert scatter(calibrated).max() <= 1.0
    sky = calibrated.noise[0]  # a row of pixels without a star
    np.testing.assert_allclose(sky, clear.noise[0], atol=0.1)


def test_dead_pixels_and_masked_rows_stay_masked_and_everything_else_is_finite():
    motion = saw_tooth()
    cube = make_cube(starlight(motion), motion)
    cube.flux_e[2, 5] = np.nan
    cube.flux_e[:, :, 100:130] = np.nan
    cube.flux_e[6, 6, 200] = np.nan
    cube.error_e[np.isnan(cube.flux_e)] = np.nan
    calibrated = calibrate_cube(cube)
    np.testing.assert_array_equal(np.isnan(calibrated.residual), np.isnan(cube.flux_e))
    for known in (calibrated.level_e, calibrated.sigma_e, calibrated.row_residual, calibrated.noise):
        assert np.isfinite(known).all()
    assert (calibrated.sigma_e > 0).all()


def test_rows_without_a_pointing_are_masked():
    """Where the archive lost the stars the light of the pixels cannot be predicted."""
    motion = saw_tooth()
    lost = motion.copy()
    lost[50:53] = np.nan
    calibrated = calibrate_cube(make_cube(starlight(motion), lost))
    assert list(np.flatnonzero(np.isnan(calibrated.residual).all(axis=(0, 1)))) == [50, 51, 52]
    assert np.isnan(calibrated.residual).sum() == 3 * N_Y * N_X


@pytest.mark.parametrize("n_rows", [2, 5, 50])
@pytest.mark.parametrize("given", [False, True])
def test_short_cubes(n_rows, given):
    motion = saw_tooth(n_rows)
    calibrated = calibrate_cube(make_cube(starlight(motion), motion if given else None))
    assert calibrated.residual.shape == (N_Y, N_X, n_rows)
    for known in (calibrated.residual, calibrated.level_e, calibrated.sigma_e):
        assert np.isfinite(known).all()
    assert np.abs(calibrated.residual).max() < 6


def test_cubes_of_the_archive_and_plain_ones_alike(tmp_path):
    """The same electrons as a Kepler file and as a plain cube without errors: the same star, unit noise in both."""
    rates = star_images(120, 7, 9) + 5.0  # the sky that the simulation took off
    errors = np.sqrt(rates / KEPLER_LIVE_S)
    kepler = read_cube(write_kepler(tmp_path / "k.fits", rates, columns={"FLUX_ERR": errors}))
    plain = write_plain(tmp_path / "c.fits", np.moveaxis(kepler.flux_e, 2, 0), header={"CADENCE": 1765.46})
    for cube in (kepler, read_cube(plain)):
        calibrated = calibrate_cube(cube)
        np.testing.assert_allclose([calibrated.stars.y, calibrated.stars.x], [[3], [4]], atol=0.02)
        assert scatter(calibrated).max() <= 1.0
        assert np.median(calibrated.noise) < 1.15
