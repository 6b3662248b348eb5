from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import get_body_barycentric
from astropy.io import fits
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS
from fake_cubes import (
    KEPLER_CADENCE_D,
    KEPLER_LIVE_S,
    KEPLER_SLICES_S,
    LIGHT_S,
    OPENED,
    star_images,
    write_kepler,
    write_plain,
    write_tess,
)

from shutterless.pipeline.reading.cubes import read_cube, read_cube_info
from shutterless.pipeline.reading.exposures import read_exposure, read_info
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.instruments import ProfileError, load_profile

DATA = Path(__file__).parents[4] / "shared" / "data"
K2, TESSCUT = DATA / "k2_epic211983544_tpf.fits", DATA / "tesscut_84.29_-80.47_6x6.fits"
CADENCE_S = KEPLER_CADENCE_D * 86400


def shared(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"{path} is not there: real archive data are not part of the repository")
    return path


def numbered(n_frames: int, n_y: int = 2, n_x: int = 3) -> np.ndarray:
    """Images whose pixels name their frame, row and column."""
    frame, y, x = np.indices((n_frames, n_y, n_x))
    return (100 * frame + 10 * y + x).astype(np.float32)


def seconds_after(utc: str, start: str) -> float:
    return float((Time(utc, format="isot", scale="utc") - Time(start, format="isot", scale="utc")).to_value("s"))


def masked_rows(cube) -> list[int]:
    return list(np.flatnonzero(np.isnan(cube.flux_e).all(axis=(0, 1))))


# --- pixels ---


def test_axes_and_electrons_of_a_kepler_file(tmp_path):
    cube = read_cube(write_kepler(tmp_path / "k.fits", numbered(4)))
    assert (cube.flux_e.shape, cube.flux_e.dtype) == ((2, 3, 4), np.float32)
    # 270 frames of 6.0198 s make 1625.35 s; pixel (1, 2) of frame 3 has 312 e-/s
    assert cube.exposure_s == pytest.approx(1625.347, abs=1e-3)
    assert cube.flux_e[1, 2, 3] == pytest.approx(312 * 1625.347, rel=1e-6)
    np.testing.assert_allclose(cube.flux_e, KEPLER_LIVE_S * np.moveaxis(numbered(4), 0, -1), rtol=1e-6)


def test_the_files_error_is_scaled_like_its_flux(tmp_path):
    flux, error = numbered(4), np.full((4, 2, 3), 0.5)
    flux[1, 0, 0] = np.nan
    cube = read_cube(write_kepler(tmp_path / "k.fits", flux, columns={"FLUX_ERR": error}))
    assert cube.error_e[1, 1, 2] == pytest.approx(0.5 * KEPLER_LIVE_S, rel=1e-6)
    np.testing.assert_array_equal(np.isnan(cube.error_e), np.isnan(cube.flux_e))


@pytest.mark.parametrize(
    ("mitigated", "cadence_s", "live_s"), [(True, 1800, 1425.6), (False, 1800, 1782.0), (True, 120, 95.04)]
)
def test_live_time_of_tess_is_less_where_cosmic_rays_are_dropped(tmp_path, mitigated, cadence_s, live_s):
    # 900 or 60 frames of 1.98 s, of which 8 in 10 are kept; 1425.6 s is the EXPOSURE of a full frame
    path = write_tess(tmp_path / "t.fits", numbered(4), cadence_s=cadence_s, primary={"CRMITEN": mitigated})
    cube = read_cube(path)
    assert cube.exposure_s == pytest.approx(live_s)
    assert cube.flux_e[0, 1, 0] == pytest.approx(live_s)


@pytest.mark.parametrize(
    ("header", "electrons"),
    [
        ({"BUNIT": "electron"}, 1.0),
        ({"BUNIT": "e-"}, 1.0),
        ({"BUNIT": "electron/s"}, 2.0),
        ({"BUNIT": "electron/s", "EXPTIME": 1.5}, 1.5),
        ({"BUNIT": "adu", "GAIN": 3.0}, 3.0),
        ({"BUNIT": None, "GAIN": 3.0}, 3.0),
    ],
)
def test_units_of_plain_cubes(tmp_path, header, electrons):
    cube = read_cube(write_plain(tmp_path / "c.fits", numbered(4), header=header))
    assert cube.flux_e[0, 1, 0] == electrons


def test_integers_of_plain_cubes_are_kept(tmp_path):
    images = (numbered(4) + 40_000).astype(np.uint16)
    cube = read_cube(write_plain(tmp_path / "c.fits", images))
    assert cube.flux_e[1, 2, 3] == 40_312


def test_read_noise_of_a_cadence_is_that_of_all_its_reads(tmp_path):
    kepler = read_cube_info(write_kepler(tmp_path / "k.fits", numbered(4))).readouts[None]
    assert kepler.read_noise_e == pytest.approx(112 * np.sqrt(270))
    plain = {"READNOI": 5.0, "NREADOUT": 4}
    assert read_cube_info(write_plain(tmp_path / "c.fits", numbered(4), header=plain)).readouts[None].read_noise_e == 10


@pytest.mark.parametrize(("output", "gain", "noise"), [(None, 5.185, 8.5), ("B", 5.17, 7.0), ("X", 5.185, 8.5)])
def test_gain_and_read_noise_of_the_output_or_the_mean(tmp_path, output, gain, noise):
    readout = read_cube_info(write_tess(tmp_path / "t.fits", numbered(4), primary={"OUTPUT": output})).readouts[None]
    assert readout.gain_e_per_adu == pytest.approx(gain)
    assert readout.read_noise_e == pytest.approx(noise * np.sqrt(720))


def test_nan_pixels_flags_and_nan_times_are_masked(tmp_path):
    flux, quality = numbered(6), np.zeros(6, np.int32)
    flux[:, 0, 1] = np.nan  # a pixel that was never there
    flux[2, 1, 1] = np.inf
    quality[4] = 1 << 6
    cube = read_cube(write_kepler(tmp_path / "k.fits", flux, untimed=(1,), columns={"QUALITY": quality}))
    assert masked_rows(cube) == [1, 4]
    assert np.isnan(cube.flux_e[0, 1]).all()
    assert list(np.flatnonzero(np.isnan(cube.flux_e[1, 1]))) == [1, 2, 4]
    assert list(cube.quality) == [0, 0, 0, 0, 64, 0]
    assert np.isfinite(cube.readout.seconds(np.arange(6))).all()


def test_a_profile_may_list_flags_that_do_not_mask(tmp_path):
    profile = tmp_path / "lenient.toml"
    text = (Path(__file__).parents[3] / "pipeline" / "reading" / "profiles" / "kepler.toml").read_text()
    profile.write_text(text.replace("ignored_quality_bits = [8, 11, 12]", "ignored_quality_bits = [7]"))
    quality = np.array([0, 1 << 6, 1 << 8, (1 << 6) + 1, 0])  # bits 7, 9, 7 and 1
    path = write_kepler(tmp_path / "k.fits", numbered(5), columns={"QUALITY": quality})
    assert masked_rows(read_cube(path, instrument=str(profile))) == [2, 3]
    assert masked_rows(read_cube(path)) == [1, 2, 3]


def test_columns_that_may_be_missing(tmp_path):
    missing = dict.fromkeys(("TIMECORR", "FLUX_ERR", "QUALITY", "POS_CORR1", "POS_CORR2", "CADENCENO"))
    path = write_kepler(tmp_path / "k.fits", numbered(4), columns=missing)
    with fits.open(path, memmap=False) as hdus:
        fits.HDUList(hdus[:2]).writeto(tmp_path / "bare.fits")
    cube = read_cube(tmp_path / "bare.fits")
    assert (cube.error_e, cube.position_px, cube.aperture) == (None, None, None)
    assert (masked_rows(cube), list(cube.quality)) == ([], [0, 0, 0, 0])


def test_positions_are_kept_where_something_moves(tmp_path):
    column, row = np.array([0.1, 0.2, np.nan, 0.4]), np.zeros(4)
    moving = {"POS_CORR1": column, "POS_CORR2": row}
    cube = read_cube(write_kepler(tmp_path / "k.fits", numbered(4), numbers=[10, 11, 12, 14], columns=moving))
    assert cube.position_px.shape == (5, 2)
    np.testing.assert_allclose(cube.position_px[:, 0], [0.1, 0.2, np.nan, np.nan, 0.4], rtol=1e-6)
    for still in (np.zeros(4), np.full(4, np.nan)):
        columns = {"POS_CORR1": still, "POS_CORR2": still}
        assert read_cube(write_kepler(tmp_path / "k.fits", numbered(4), columns=columns)).position_px is None


def test_the_optimal_aperture_is_bit_2(tmp_path):
    mask = np.array([[1, 3, 1], [2, 1, 9]])
    aperture = read_cube(write_kepler(tmp_path / "k.fits", numbered(4), aperture=mask)).aperture
    np.testing.assert_array_equal(aperture, [[False, True, False], [True, False, False]])
    assert read_cube(write_tess(tmp_path / "t.fits", numbered(4), aperture=mask.astype(float))).aperture[1, 0]
    assert read_cube(write_tess(tmp_path / "t.fits", numbered(4))).aperture is None


# --- rows and times ---


@pytest.mark.parametrize("time_slice", [1, 2, 3, 4, 5])
def test_kepler_times_come_back_as_the_utc_of_this_modules_exposure(tmp_path, time_slice):
    path = write_kepler(tmp_path / "k.fits", numbered(4), time_slice=time_slice)
    utc = read_cube(path).readout.read_utc([0, 3])
    # 32-bit corrections hold 40 µs
    assert seconds_after(utc[0], OPENED) == pytest.approx(-KEPLER_SLICES_S[time_slice], abs=1e-4)
    assert seconds_after(utc[1], OPENED) == pytest.approx(3 * CADENCE_S - KEPLER_SLICES_S[time_slice], abs=1e-4)


def test_tess_times_come_back_as_utc(tmp_path):
    utc = read_cube(write_tess(tmp_path / "t.fits", numbered(4))).readout.read_utc([0, 3])
    assert [seconds_after(time, OPENED) for time in utc] == pytest.approx([0, 5400], abs=1e-4)


def test_archive_times_are_those_of_the_file(tmp_path):
    path = write_kepler(tmp_path / "k.fits", numbered(4), untimed=(1,))
    with fits.open(path, memmap=False) as hdus:
        time_d, correction_d = hdus[1].data["TIME"].copy(), hdus[1].data["TIMECORR"].astype(float)
    readout = read_cube(path).readout
    assert readout.time_scale == "BJD - 2454833 (TDB)"
    assert list(readout.archive_time([0, 2, 3])) == list(time_d[[0, 2, 3]])
    assert readout.archive_time(1) == pytest.approx((time_d[0] + time_d[2]) / 2, abs=1e-9)
    assert correction_d[0] * 86400 == pytest.approx(LIGHT_S + 69.184 - 0.25, abs=0.01)


def test_cadences_that_the_file_leaves_out_are_rows_of_nan(tmp_path):
    # 10 11 12 and 16 17: three are missing
    path = write_kepler(tmp_path / "k.fits", numbered(5), numbers=[10, 11, 12, 16, 17])
    cube = read_cube(path)
    assert cube.flux_e.shape == (2, 3, 8)
    assert masked_rows(cube) == [3, 4, 5]
    assert list(cube.quality) == [0, 0, 0, -1, -1, -1, 0, 0]
    assert cube.flux_e[0, 0, 6] == pytest.approx(300 * KEPLER_LIVE_S)
    utc = cube.readout.read_utc([6, 4])
    assert [seconds_after(time, OPENED) for time in utc] == pytest.approx(
        [6 * CADENCE_S - 0.25, 4 * CADENCE_S - 0.25], abs=1e-4
    )
    with fits.open(path, memmap=False) as hdus:
        assert cube.readout.archive_time(6) == hdus[1].data["TIME"][3]


def test_without_cadence_numbers_gaps_are_found_from_the_times(tmp_path):
    zeros = {"CADENCENO": np.zeros(5, np.int32)}
    cube = read_cube(write_tess(tmp_path / "t.fits", numbered(5), numbers=[10, 11, 12, 16, 17], columns=zeros))
    assert masked_rows(cube) == [3, 4, 5]
    assert seconds_after(cube.readout.read_utc(6)[0], OPENED) == pytest.approx(6 * 1800, abs=1e-4)


def test_rows_are_counted_on_the_observers_clock(tmp_path):
    # the light time shortens by 135 s in 31 days: whole cadences of 120 s of barycentric time would lose one
    path = write_tess(tmp_path / "t.fits", numbered(22_500, 1, 2), cadence_s=120)
    with fits.open(path, memmap=False) as hdus:
        time_d = hdus[1].data["TIME"]
        assert round((time_d[-1] - time_d[0]) * 720) == 22_498
    cube = read_cube(path)
    assert (cube.flux_e.shape[2], masked_rows(cube)) == (22_500, [])
    assert seconds_after(cube.readout.read_utc(22_499)[0], OPENED) == pytest.approx(22_499 * 120, abs=1e-3)


@pytest.mark.parametrize("write", [write_kepler, write_tess])
def test_cadences_without_a_time_are_counted_by_their_neighbours(tmp_path, write):
    cube = read_cube(write(tmp_path / "c.fits", numbered(9), untimed=(0, 1, 5, 8)))
    assert masked_rows(cube) == [0, 1, 5, 8]
    early, step = (0.25, CADENCE_S) if write is write_kepler else (0.0, 1800.0)
    after = [seconds_after(time, OPENED) for time in cube.readout.read_utc([0, 1, 5, 8])]
    assert after == pytest.approx([row * step - early for row in (0, 1, 5, 8)], abs=2e-3)


def test_without_a_correction_there_are_no_utc_but_seconds(tmp_path):
    path = write_kepler(tmp_path / "k.fits", numbered(4), columns={"TIMECORR": np.full(4, np.nan)})
    assert read_cube(path).readout.shutter_open_utc is None
    readout = read_cube(write_kepler(tmp_path / "k.fits", numbered(4), columns={"TIMECORR": None})).readout
    assert readout.shutter_open_utc is None
    assert list(readout.read_utc([0, 3])) == ["", ""]
    assert list(readout.event_utc_range([3])[0]) == [""]
    assert readout.seconds(3) == pytest.approx(3 * CADENCE_S, abs=0.5)
    assert readout.time_scale == "BJD - 2454833 (TDB)"


def test_times_of_the_observer_are_not_corrected(tmp_path):
    # UTC of 2018-05-13T00:59:25.548 in days since 2454833, with nonsense in TIMECORR
    local_d = Time(OPENED, scale="utc", format="isot").jd - 2454833 + np.arange(4) * KEPLER_CADENCE_D
    columns = {"TIME": local_d, "TIMECORR": np.full(4, 9.0)}
    for place in ("LOCAL", None):
        table = {"TIMEREF": place, "TIMESYS": "UTC"}
        readout = read_cube(write_kepler(tmp_path / "k.fits", numbered(4), columns=columns, table=table)).readout
        assert seconds_after(readout.read_utc(3)[0], OPENED) == pytest.approx(3 * CADENCE_S - 0.25, abs=1e-4)
        assert readout.time_scale == "JD - 2454833 (UTC)"


def test_clocks_of_no_known_scale_give_no_utc(tmp_path):
    path = write_tess(tmp_path / "t.fits", numbered(4), primary={"TIMESYS": "LOCAL CLOCK"})
    assert read_cube(path).readout.shutter_open_utc is None
    # the time slice of this module of Kepler is not known
    path = write_kepler(tmp_path / "k.fits", numbered(4), table={"TIMSLICE": None})
    assert read_cube(path).readout.shutter_open_utc is None


def test_a_plain_cube_without_a_date_counts_seconds(tmp_path):
    readout = read_cube(write_plain(tmp_path / "c.fits", numbered(4))).readout
    assert (readout.row_rate_hz, readout.n_transit, readout.first_row, readout.shutter_open_utc) == (0.5, 0, 0, None)
    assert list(readout.seconds([0, 3])) == [0, 6]
    assert list(readout.archive_time([0, 3])) == [1, 7]
    assert readout.time_scale == "seconds since the start of the first exposure"


def test_row_0_of_a_plain_cube_is_the_middle_of_its_first_exposure(tmp_path):
    header = {"DATE-OBS": "2016-12-31T23:59:50Z", "EXPTIME": 1.0}
    readout = read_cube(write_plain(tmp_path / "c.fits", numbered(7), header=header)).readout
    # half of 1 s, then 2 s each, over the leap second
    assert list(readout.read_utc([0, 5])) == ["2016-12-31T23:59:50.500000", "2016-12-31T23:59:60.500000"]
    assert list(readout.archive_time([0, 5])) == [0.5, 10.5]
    assert readout.time_scale == "seconds since 2016-12-31T23:59:50.000000 (UTC)"


def test_a_date_without_a_time_of_day_is_no_clock(tmp_path):
    path = write_plain(tmp_path / "c.fits", numbered(4), header={"DATE-OBS": "2026-03-04"})
    assert read_cube(path).readout.shutter_open_utc is None


def test_a_table_of_times_gives_rows_and_times_of_a_plain_cube(tmp_path):
    header = {"DATE-OBS": "2026-03-04T05:06:07"}
    cube = read_cube(write_plain(tmp_path / "c.fits", numbered(4), header=header, times=[1.0, 3.1, 8.9, 11.0]))
    assert masked_rows(cube) == [2, 3]
    assert list(cube.readout.archive_time([0, 1, 4, 5])) == [1.0, 3.1, 8.9, 11.0]
    assert list(cube.readout.read_utc([1, 4])) == ["2026-03-04T05:06:10.100000", "2026-03-04T05:06:15.900000"]
    days = write_plain(tmp_path / "d.fits", numbered(4), times=np.array([0.0, 2, 8, 10]) / 86400, unit="d")
    assert masked_rows(read_cube(days)) == [2, 3]
    assert read_cube(days).readout.time_scale == "days"


def test_headers_become_the_readout(tmp_path):
    info = read_cube_info(write_kepler(tmp_path / "k.fits", numbered(4, 3, 2), numbers=[1, 2, 3, 9]))
    readout = info.readouts[None]
    assert (info.n_rows, info.n_y, info.n_columns, info.n_pixels, dict(info.skipped)) == (9, 3, 2, 54, {})
    assert (readout.ccd, readout.quadrant, readout.sequence, readout.band) == (None, None, "EPIC 201", "Kp")
    assert (readout.zero_point_mag, readout.pixel_scale_arcsec, readout.gain_e_per_adu) == (25.10, 3.98, 105.29)
    assert readout.row_rate_hz == pytest.approx(1 / 1765.463, rel=1e-6)
    assert read_cube_info(write_tess(tmp_path / "cut.fits", numbered(4))).readouts[None].sequence == "cut"


def test_header_and_pixels_agree_on_rows_and_times(tmp_path):
    path = write_kepler(tmp_path / "k.fits", numbered(4), numbers=[1, 2, 3, 9], untimed=(2,))
    info, cube = read_info(path), read_exposure(path, None)
    assert (info.readouts[None], info.n_rows) == (cube.readout, cube.flux_e.shape[2])
    rows = np.arange(9)
    np.testing.assert_array_equal(info.readouts[None].seconds(rows), cube.readout.seconds(rows))


def test_supplied_values_win_and_are_recorded(tmp_path):
    path = write_plain(tmp_path / "c.fits", numbered(4), header={"CADENCE": None})
    with pytest.raises(FrameError, match=r"CADENCE is missing and has no default; give it with --set CADENCE=VALUE"):
        read_cube(path, instrument="cube")
    info = read_info(path, supplied={"CADENCE": "4.0"})  # which also makes it known
    assert (info.readouts[None].row_rate_hz, info.readouts[None].supplied) == (0.25, (("CADENCE", "4.0"),))
    tess = write_tess(tmp_path / "t.fits", numbered(4))
    assert read_info(tess, supplied={"GAIN": "7"}).readouts[None].gain_e_per_adu == 7
    assert read_info(tess, supplied={"GAINA": "9.25"}).readouts[None].gain_e_per_adu == pytest.approx(6.185)


def test_cadence_of_a_pixel_file_without_one_is_that_of_its_times(tmp_path):
    stated = read_info(write_kepler(tmp_path / "k.fits", numbered(6)))
    info = read_info(write_kepler(tmp_path / "n.fits", numbered(6), table={"TIMEDEL": None}))
    assert info.readouts[None].row_rate_hz == pytest.approx(stated.readouts[None].row_rate_hz, rel=1e-3)
    assert any(
        re.fullmatch(r"TIMEDEL is missing; 176\d\.?\d* s from the table of times is taken", note) for note in info.notes
    )


def test_compressed_cubes_are_the_same(tmp_path):
    plain = write_kepler(tmp_path / "k.fits", numbered(4))
    packed = tmp_path / "k.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_exposure(packed, None).flux_e, read_exposure(plain, None).flux_e)
    tiled = tmp_path / "c.fits.fz"
    image = fits.CompImageHDU(numbered(4).astype(np.int32), header=fits.Header([("CADENCE", 2.0), ("BUNIT", "e-")]))
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tiled)
    np.testing.assert_array_equal(read_cube(tiled, "cube").flux_e, np.moveaxis(numbered(4), 0, -1))


# --- which reader ---


def test_files_are_read_as_their_profile_says(tmp_path, write_frame):
    assert read_info(write_frame()).profile.name == "ztf"
    assert read_exposure(write_frame(), 2).pixels_adu.shape == (20, 3072)
    assert read_info(write_tess(tmp_path / "t.fits", numbered(4))).profile.name == "tess"
    assert read_info(write_plain(tmp_path / "c.fits", numbered(4))).profile.name == "cube"
    extension = write_plain(tmp_path / "e.fits", numbered(4), in_extension=True)
    assert read_info(extension, instrument="cube").n_rows == read_info(extension).n_rows == 4
    single = write_plain(tmp_path / "s.fits", numbered(4)[0], header={"CADENCE": None})
    with pytest.raises(ProfileError, match=r"s\.fits: no built-in .* a series of images is searched as one cube"):
        read_info(single)
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    with pytest.raises(ProfileError, match=r"empty\.fits: no built-in instrument profile recognises"):
        read_info(tmp_path / "empty.fits")


def test_quadrants_belong_to_frames_alone(tmp_path, write_frame):
    with pytest.raises(FrameError, match=r"quadrant 1 was asked for, but an image cube has no quadrants"):
        read_exposure(write_kepler(tmp_path / "k.fits", numbered(4)), 1)
    with pytest.raises(FrameError, match=r"quadrant None was asked for, but a frame is read by its quadrants"):
        read_exposure(write_frame(), None)
    with pytest.raises(FrameError, match=r"is no image cube \(profile ztf\)"):
        read_cube(write_frame())


# --- errors ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"TIME": None}}, r"the table has no column TIME, it has \['TIMECORR', 'CADENCENO', 'FLUX'"),
        ({"columns": {"FLUX": None}}, r"no column FLUX, it has \['TIME', .*is it a target pixel file\?"),
        ({"untimed": range(6), "columns": {"CADENCENO": None}}, r"none of its 6 frames has a time"),
        ({"columns": {"QUALITY": np.ones(6)}}, r"all 6 cadences are masked: 0 have no time and 6 are flagged in QUAL"),
        ({"columns": {"TIME": np.array([1.0, 2, 4, 3, 5, 6])}}, r"frame 2 has 4\.0, frame 3 has 3\.0"),
        (
            {"table": {"TIMEDEL": None}, "untimed": range(6)},
            r"TIMEDEL is missing and has no default; give it with --set",
        ),
        ({"table": {"TIMEDEL": -1.0}}, r"TIMEDEL = -1\.0 is not a positive finite number"),
        ({"table": {"TIMEDEL": 0.01}}, r"864 s apart at a cadence \(TIMEDEL\) of 864 s, .* 1765\.46 s apart; correct"),
        (
            {"table": {"INT_TIME": 7.0}},
            r"exposures of 1890 s do not fit into a cadence of 1765\.46 s; correct INT_TIME",
        ),
        (
            {"columns": {"CADENCENO": np.array([1, 2, 3, 5, 6, 7])}},
            r"frames 2 and 3 are cadences 3 and 5, 3530\.93 s apart at a cadence \(TIMEDEL\) of 1765\.46 s, but their "
            r"times .* are 1765\.\d+ s apart; correct TIMEDEL",
        ),
        ({"aperture": np.ones((3, 3))}, r"APERTURE has shape \(3, 3\), the images have \(2, 3\)"),
    ],
)
def test_damaged_target_pixel_files_are_refused(tmp_path, change, message):
    with pytest.raises(FrameError, match=message):
        read_cube(write_kepler(tmp_path / "k.fits", numbered(6), **change))


def test_pixels_that_say_nothing(tmp_path):
    nothing, alike = np.full((4, 2, 3), np.nan), np.full((4, 2, 3), 7.0)
    with pytest.raises(FrameError, match=r"all pixels of all 4 cadences are NaN or infinite"):
        read_cube(write_kepler(tmp_path / "k.fits", nothing))
    with pytest.raises(FrameError, match=r"all pixels of all cadences equal 7 electrons"):
        read_cube(write_plain(tmp_path / "c.fits", alike))
    seen_in_the_dark = nothing.copy()
    seen_in_the_dark[1] = 1
    with pytest.raises(FrameError, match=r"every pixel of every unmasked cadence is NaN"):
        read_cube(write_kepler(tmp_path / "k.fits", seen_in_the_dark, untimed=(1,)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((4, 3)), r"no HDU is an image \(t, y, x\); images have shapes \[\(4, 3\)\]"),
        (np.ones((2, 4, 3, 3)), r"images have shapes \[\(2, 4, 3, 3\)\]"),
        (np.ones((1, 4, 3)), r"the number of cadences is 1, at least 2 are needed"),
    ],
)
def test_images_of_other_dimensions(tmp_path, images, message):
    with pytest.raises(FrameError, match=message):
        read_info(write_plain(tmp_path / "c.fits", images), instrument="cube")


def test_a_flux_column_that_is_no_image(tmp_path):
    path = write_kepler(tmp_path / "k.fits", numbered(4))
    with fits.open(path, memmap=False) as hdus:
        column = fits.Column("FLUX", "6E", array=hdus[1].data["FLUX"].reshape(4, 6))
        table = fits.BinTableHDU.from_columns([hdus[1].columns["TIME"], column])
        fits.HDUList([hdus[0], table]).writeto(tmp_path / "flat.fits")
        fits.HDUList([hdus[0], hdus[2]]).writeto(tmp_path / "bare.fits")
    with pytest.raises(FrameError, match=r"FLUX has shape \(4, 6\), expected are images \(t, y, x\)"):
        read_cube(tmp_path / "flat.fits")
    with pytest.raises(FrameError, match=r"kepler expects a table in HDU 1, .* holds \['PrimaryHDU', 'ImageHDU'\]"):
        read_cube(tmp_path / "bare.fits")


def test_two_frames_in_one_row(tmp_path):
    with pytest.raises(
        FrameError, match=r"frames 1 and 2, at 2\.0 and 2\.5, fall into one row at a cadence \(CADENCE\)"
    ):
        read_cube(write_plain(tmp_path / "c.fits", numbered(4), times=[0.0, 2.0, 2.5, 6.0]))
    # frame 1 has no time, and none is left for it between its neighbours
    with pytest.raises(FrameError, match=r"frames 1 and 2, at nan and 2\.0, fall into one row"):
        read_cube(write_plain(tmp_path / "c.fits", numbered(4), times=[0.0, np.nan, 2.0, 4.0]))


def test_rows_far_beyond_the_frames_are_refused(tmp_path):
    path = write_plain(tmp_path / "c.fits", numbered(3), times=[0.0, 2.0, 4e6])
    with pytest.raises(
        FrameError, match=r"3 frames span 2000001 cadences of 2 s, more than 100 times .*; split the file"
    ):
        read_info(path)


@pytest.mark.parametrize(
    ("header", "times", "unit", "message"),
    [
        ({"BUNIT": "adu"}, None, "s", r"GAIN is missing and has no default; give it with --set GAIN=VALUE"),
        ({"EXPTIME": 3.0}, None, "s", r"exposures of 3 s do not fit into a cadence of 2 s; correct EXPTIME"),
        ({}, [0.0, 2.0, 4.0], "s", r"the table of times has 3 rows, the image \(t, y, x\) is \(4, 2, 3\)"),
        ({}, [0.0, 2.0, 4.0, 6.0], "weeks", r"column TIME is in 'weeks', known are 's'"),
    ],
)
def test_damaged_plain_cubes_are_refused(tmp_path, header, times, unit, message):
    path = write_plain(tmp_path / "c.fits", numbered(4), header=header, times=times, unit=unit)
    with pytest.raises(FrameError, match=message):
        read_info(path)


def test_supplied_keyword_that_the_profile_does_not_read_is_refused(tmp_path):
    with pytest.raises(FrameError, match=r"--set CADENCE: profile tess has no such keyword; it reads .*'TIMEDEL'"):
        read_info(write_tess(tmp_path / "t.fits", numbered(4)), supplied={"CADENCE": "2"})


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_truncated_cubes_are_never_read_as_whole(tmp_path, suffix, kept):
    content = write_kepler(tmp_path / "k.fits", star_images()).read_bytes()
    content = gzip.compress(content) if suffix == ".fits.gz" else content
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FrameError, match=r"is not a complete FITS file"):
        read_info(path)


# --- files of the archives ---


def test_a_flaring_dwarf_of_k2():
    cube = read_exposure(shared(K2), None)
    with fits.open(K2, memmap=False) as hdus:
        table, quality = hdus[1].data.copy(), hdus[1].data["QUALITY"]
        header = hdus[1].header
    outlier = 1 << 11  # which does not mask
    lost = (quality & ~outlier != 0) | ~np.isfinite(table["TIME"]) | ~np.isfinite(table["FLUX"]).any(axis=(1, 2))
    assert (cube.flux_e.shape, cube.profile.name) == ((5, 7, 2490), "kepler")
    assert masked_rows(cube) == list(np.flatnonzero(lost))
    assert 1 / cube.readout.row_rate_hz == pytest.approx(1765.46, abs=0.01)
    assert cube.aperture.sum() == 2  # NPIXSAP

    flare = int(np.nanargmin(np.abs(cube.readout.archive_time(np.arange(2490)) - 3435.4028)))
    light = np.where(lost, np.nan, np.nansum(cube.flux_e, axis=(0, 1)))
    assert flare == 825
    assert light[flare] / np.nanmedian(light) - 1 == pytest.approx(1.8, abs=0.05)
    # 17 days, less what the light time shortened, after the first; 69.184 s of TDB - UTC are in TIMECORR
    stated = Time(2454833, table["TIME"][flare] - float(table["TIMECORR"][flare]), format="jd", scale="utc")
    utc = Time(cube.readout.read_utc(flare)[0], format="isot", scale="utc")
    assert (stated - utc).to_value("s") == pytest.approx(0.25, abs=1e-3)
    assert cube.readout.read_utc(flare)[0].startswith("2018-05-29T21:34:32.5")
    # LC_START and LC_END are the MJD (UTC, 0.9 ms) of the middles of the first and the last cadence
    for row, keyword in ((0, "LC_START"), (2489, "LC_END")):
        middle = Time(header[keyword], format="mjd", scale="utc") - TimeDelta(0.25, format="sec")
        utc = Time(cube.readout.read_utc(row)[0], format="isot", scale="utc")
        assert (utc - middle).to_value("s") == pytest.approx(0, abs=2e-3)


def test_keplers_correction_holds_the_offset_of_utc():
    # the light time to a star is the projection of Kepler's place on its orbit, nearly a circle of 505.6 s (1.0133 au,
    # e = 0.036) in 372.5 days: once what TIMECORR holds besides is taken off, 51 days of it give the circle's radius
    read_info(shared(K2))
    with fits.open(K2, memmap=False) as hdus:
        table = hdus[1].data.copy()
    timed = np.isfinite(table["TIME"])
    phase = 2 * np.pi * (table["TIME"][timed] - table["TIME"][0]) / 372.5
    terms = np.stack([np.cos(phase), np.sin(phase)], axis=1)
    correction_s = table["TIMECORR"][timed].astype(float) * 86400
    radius_s = {
        offset_s: np.hypot(*np.linalg.lstsq(terms, correction_s - offset_s, rcond=None)[0]) for offset_s in (0, 69.184)
    }
    assert radius_s[69.184] == pytest.approx(505.6, rel=0.036)
    assert radius_s[0] != pytest.approx(505.6, rel=0.036)


def test_a_cut_out_of_tess():
    cube = read_exposure(shared(TESSCUT), None)
    assert (cube.flux_e.shape, cube.profile.name, masked_rows(cube)) == ((6, 6, 50), "tess", [])
    assert 1 / cube.readout.row_rate_hz == pytest.approx(1800)
    with fits.open(TESSCUT, memmap=False) as hdus:
        assert cube.exposure_s / 86400 == pytest.approx(hdus[1].header["EXPOSURE"], abs=1e-7)
        names = list(hdus[1].data["FFI_FILE"])
    # images are named by the second (UTC) in which they begin: tess2018206192942 is day 206, 19:29:42
    for row, name in enumerate(names):
        year, day, hour, minute, second = re.match(r"tess(\d{4})(\d{3})(\d\d)(\d\d)(\d\d)", name).groups()
        begins = Time(f"{year}:{day}:{hour}:{minute}:{second}", format="yday", scale="utc") + TimeDelta(
            900, format="sec"
        )
        utc = Time(cube.readout.read_utc(row)[0], format="isot", scale="utc")
        assert abs((utc - begins).to_value("s")) < 1


def test_the_correction_of_a_cut_out_is_the_light_time_of_the_middle_of_its_ccd():
    read_info(shared(TESSCUT))
    with fits.open(TESSCUT, memmap=False) as hdus:
        table, header, wcs = hdus[1].data.copy(), hdus[1].header, WCS(hdus[2].header)
    times = Time(2457000, table["TIME"] - table["TIMECORR"].astype(float), format="jd", scale="tdb")
    earth_s = get_body_barycentric("earth", times, ephemeris="builtin").xyz.to_value("km") / 299_792.458

    def light_time_s(column: float, row: float) -> np.ndarray:
        star = wcs.pixel_to_world(column - header["1CRV5P"], row - header["2CRV5P"])
        return star.cartesian.xyz.value @ earth_s

    correction_s = table["TIMECORR"].astype(float) * 86400
    # TESS stays within 60 Earth radii, 1.3 s; 5 degrees away the WCS of the cut-out is off by 0.1, which is 0.9 s
    assert np.abs(correction_s - light_time_s(1068, 1024)).max() < 2.2
    # the star itself is 40 s of light away from that
    assert np.abs(correction_s - light_time_s(1631, 260)).min() > 40


def test_the_profiles_of_the_archives_agree_with_their_files():
    for path, name in ((K2, "kepler"), (TESSCUT, "tess")):
        assert read_info(shared(path)).profile is load_profile(name)
