"""Copies of image cubes with injected events: the requested electrons, in the units of the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from fake_cubes import KEPLER_LIVE_S, star_images, write_kepler, write_plain, write_tess

from shutterless.pipeline.events.events import Event
from shutterless.pipeline.injection import amplifiers as injection
from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.injection.cubes import inject_cube
from shutterless.pipeline.injection.files import inject_file
from shutterless.pipeline.reading.cubes import read_cube, write_changed_cube
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.simulation.truth import STAR_COLUMNS, TRUTH_COLUMNS

N_ROWS, PEAK, N_LIT = 120, 60, 4
SETTINGS = InjectionSettings(kinds=(("burst", 1.0),), rho=(150.0, 150.0), partial=0.0)
# rows 60 to 63; 0.4 % of a row spills into the one beside it
BURST = Event("burst", 3.0, PEAK + 1.5, N_LIT, 1.0, shape=(("profile", "tophat"),), y=3.0)
LIT, LIT_AND_BESIDE = [PEAK, PEAK + 2, PEAK + 3], range(PEAK - 1, PEAK + N_LIT + 1)  # without the one that is flagged
SKY_E_S = 5.0


def write_star(path: Path, write=write_kepler, **options) -> Path:
    """A star of 1.6e6 e- a cadence in 7 x 7 pixels with its true errors; a flagged cadence, and one without a time."""
    rates = star_images(N_ROWS, 7, 7) + SKY_E_S
    quality = np.zeros(N_ROWS, np.int32)
    quality[[20, PEAK + 1]] = 4
    columns = {"FLUX_ERR": np.sqrt(rates / KEPLER_LIVE_S), "QUALITY": quality}
    return write(path, rates, columns=columns, untimed=(40,), **options)


@pytest.fixture
def one_burst(monkeypatch):
    """Every event drawn is the same burst of four cadences on the star."""
    monkeypatch.setattr(injection, "draw_event", lambda *_, **__: BURST)


def copy_of(path: Path, folder: Path, **changes):
    folder.mkdir(exist_ok=True)
    return inject_cube(path, folder, **{"settings": SETTINGS, "events": 1, "seed": 3, **changes})


def test_copy_holds_the_electrons_of_the_event_and_no_others(one_burst, tmp_path):
    path = write_star(tmp_path / "k.fits")
    copy = copy_of(path, tmp_path / "out")
    before, after = read_cube(path), read_cube(copy.path)
    amplitude = copy.truth["amplitude_e"].iloc[0]
    added = np.nan_to_num(after.flux_e - before.flux_e).sum(axis=(0, 1))
    np.testing.assert_allclose(added[LIT], amplitude, atol=4 * np.sqrt(amplitude))
    assert np.abs(added[[PEAK - 1, PEAK + N_LIT]]).max() < 0.01 * amplitude
    np.testing.assert_array_equal(np.delete(added, LIT_AND_BESIDE), 0)
    assert copy.truth["rho"].iloc[0] == pytest.approx(150)


def test_masked_cadences_stay_masked(one_burst, tmp_path):
    path = write_star(tmp_path / "k.fits")
    before, after = read_cube(path), read_cube(copy_of(path, tmp_path / "out").path)
    np.testing.assert_array_equal(np.isnan(after.flux_e), np.isnan(before.flux_e))
    assert list(np.flatnonzero(np.isnan(after.flux_e).all(axis=(0, 1)))) == [20, 40, PEAK + 1]
    np.testing.assert_array_equal(after.quality, before.quality)


def test_errors_grow_by_the_photon_noise_of_the_event(one_burst, tmp_path):
    """Each pixel's variance by the electrons that the event has there on average, in the whole source its amplitude."""
    path = write_star(tmp_path / "k.fits")
    copy = copy_of(path, tmp_path / "out")
    before, after = read_cube(path).error_e.astype(np.float64), read_cube(copy.path).error_e.astype(np.float64)
    grown = (after**2 - before**2).sum(axis=(0, 1))
    assert grown[LIT] == pytest.approx(copy.truth["amplitude_e"].iloc[0], rel=0.005)
    np.testing.assert_array_equal(np.nan_to_num(np.delete(grown, LIT_AND_BESIDE)), 0)


def test_all_else_in_the_file_is_as_it_was(one_burst, tmp_path):
    path = write_star(tmp_path / "k.fits", aperture=np.full((7, 7), 3))
    with fits.open(path) as before, fits.open(copy_of(path, tmp_path / "out").path) as after:
        assert [hdu.name for hdu in after] == [hdu.name for hdu in before]
        for old, new in zip(before, after, strict=True):
            assert repr(new.header) == repr(old.header)
        np.testing.assert_array_equal(after["APERTURE"].data, before["APERTURE"].data)
        for name in ("TIME", "TIMECORR", "CADENCENO", "QUALITY", "POS_CORR1", "POS_CORR2"):
            np.testing.assert_array_equal(after[1].data[name], before[1].data[name])
        changed = np.flatnonzero((after[1].data["FLUX"] != before[1].data["FLUX"]).any(axis=(1, 2)))
    assert set(changed) <= set(LIT_AND_BESIDE)


def test_packed_files_are_packed_again(one_burst, tmp_path):
    plain = write_star(tmp_path / "k.fits")
    packed = tmp_path / "k.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    copies = [copy_of(path, tmp_path / "out").path for path in (plain, packed)]
    assert [path.name for path in copies] == ["k.fits", "k.fits.gz"]
    assert copies[1].read_bytes()[:2] == b"\x1f\x8b"
    np.testing.assert_array_equal(read_cube(copies[1]).flux_e, read_cube(copies[0]).flux_e)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["k.fits", "k.fits.gz"]  # no unfinished file


def test_truth_names_the_pixel_and_the_star_and_no_quadrant(one_burst, tmp_path):
    copy = copy_of(write_star(tmp_path / "k.fits"), tmp_path / "out")
    truth, stars = copy.truth, copy.stars
    assert set(TRUTH_COLUMNS) | {"y"} == set(truth)
    assert set(STAR_COLUMNS) | {"y"} == set(stars)
    row = truth.iloc[0]
    assert (row["event_id"], row["file"], row["kind"]) == ("k_i0000", "k.fits", "burst")
    assert (row["x"], row["y"], row["is_event"], row["sign"]) == (3.0, 3.0, True, 1)
    assert (row["row_start"], row["row_stop"]) == (PEAK, PEAK + N_LIT - 1)
    assert PEAK <= row["row_peak"] < PEAK + N_LIT
    assert row["duration_s"] == pytest.approx(N_LIT * 1765.46, rel=1e-5)
    np.testing.assert_allclose(stars[["y", "x"]], [[3, 3]], atol=0.02)
    for table in (truth, stars):
        assert table["ccd"].isna().all()
        assert table["quadrant"].isna().all()
    assert copy.skipped == {}


def test_drawn_events_are_those_that_the_camera_knows(tmp_path):
    """Of the four default kinds flares and bursts; flares on the star, half of the bursts anywhere."""
    path = write_star(tmp_path / "k.fits")
    settings = InjectionSettings(rho=(20.0, 30.0))
    truth = pd.concat([copy_of(path, tmp_path / "out", settings=settings, seed=seed).truth for seed in range(6)])
    assert set(truth["kind"]) == {"flare", "burst"}
    on_star = truth["star_id"] == 0
    assert on_star[truth["kind"] == "flare"].all()
    np.testing.assert_allclose(truth.loc[on_star, ["y", "x"]], 3, atol=0.02)
    assert truth["rho"].between(20, 30).all()


def test_same_seed_same_copy(tmp_path):
    path = write_star(tmp_path / "k.fits")
    copies = [copy_of(path, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    content = [copy.path.read_bytes() for copy in copies]
    assert content[0] == content[1] != content[2]
    pd.testing.assert_frame_equal(copies[0].truth, copies[1].truth)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_plain_cubes_keep_their_type(one_burst, tmp_path, kind):
    """Integers are rounded; 3 e- an ADU."""
    images = (star_images(N_ROWS, 7, 7, live_s=20.0) * 20 + 500).round().astype(kind)
    path = write_plain(tmp_path / "c.fits", images, header={"BUNIT": "adu", "GAIN": 3.0, "READNOI": 30.0})
    copy = copy_of(path, tmp_path / "out")
    with fits.open(copy.path) as hdus:
        data = hdus[0].data
        assert data.dtype.newbyteorder("=") == kind
    added = (data.astype(float) - images).sum(axis=(1, 2))
    amplitude = copy.truth["amplitude_e"].iloc[0]
    np.testing.assert_allclose(3 * added[PEAK : PEAK + N_LIT], amplitude, atol=4 * np.sqrt(amplitude) + 3 * 7)
    np.testing.assert_array_equal(np.delete(added, LIT_AND_BESIDE), 0)


def test_tess_files_and_kepler_files_alike(one_burst, tmp_path):
    path = write_star(tmp_path / "t.fits", write_tess)
    copy = copy_of(path, tmp_path / "out")
    added = np.nan_to_num(read_cube(copy.path).flux_e - read_cube(path).flux_e).sum(axis=(0, 1))
    amplitude = copy.truth["amplitude_e"].iloc[0]
    np.testing.assert_allclose(added[LIT], amplitude, atol=4 * np.sqrt(amplitude))


def test_changes_of_rows_that_the_file_lacks_are_dropped(tmp_path):
    """Cadences 1, 2, 3 and 9 are rows 0, 1, 2 and 8: electrons of rows 3 to 7 have no image."""
    path = write_kepler(tmp_path / "k.fits", star_images(4, 3, 3), numbers=[1, 2, 3, 9])
    change = np.zeros((3, 3, 9), np.float32)
    change[1, 2] = 1e6 * np.arange(9)
    write_changed_cube(path, tmp_path / "copy.fits", change, change)
    before, after = read_cube(path), read_cube(tmp_path / "copy.fits")
    added = after.flux_e - before.flux_e
    np.testing.assert_allclose(added[1, 2, [0, 1, 2, 8]], [0, 1e6, 2e6, 8e6], atol=1)
    assert np.isnan(added[:, :, 3:8]).all()
    assert np.nansum(np.abs(added)) == pytest.approx(11e6, rel=1e-5)
    np.testing.assert_allclose(after.error_e[1, 2, 8] ** 2 - before.error_e[1, 2, 8] ** 2, 8e6, rtol=1e-3)


def test_full_pixels_of_integers_stay_full(tmp_path):
    images = np.full((4, 3, 3), 65_000, np.uint16)
    images[2, 1, 1] = 300
    path = write_plain(tmp_path / "c.fits", images)
    change = np.zeros((3, 3, 4))
    change[1, 1] = 600.4, 300, -310, -5.6
    write_changed_cube(path, tmp_path / "copy.fits", change, np.zeros_like(change))
    assert fits.getdata(tmp_path / "copy.fits")[:, 1, 1].tolist() == [65_535, 65_300, 0, 64_994]


def test_a_copy_never_takes_the_place_of_its_file(tmp_path):
    path = write_star(tmp_path / "k.fits")
    content = path.read_bytes()
    for inject in (inject_cube, inject_file):
        with pytest.raises(FrameError, match=r"k\.fits: the copy with events would replace it; choose another folder"):
            inject(path, tmp_path, SETTINGS, events=1, seed=1)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.fits"]


def test_any_file_is_injected_as_its_kind_asks(one_burst, tmp_path, write_frame):
    """A cube by `inject_cube`; a frame would have truth of its quadrants."""
    path = write_star(tmp_path / "k.fits")
    (tmp_path / "a").mkdir()
    chosen = inject_file(path, tmp_path / "a", SETTINGS, events=1, seed=3)
    assert chosen.path.read_bytes() == copy_of(path, tmp_path / "b").path.read_bytes()
    with pytest.raises(FrameError, match=r"is no image cube \(profile ztf\)"):
        copy_of(write_frame(), tmp_path / "c")
