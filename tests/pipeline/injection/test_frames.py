"""Injected frames: the event's mean and noise are right, and everything else is the same to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import another_program
import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.calibration.serial_trap import apply_serial_trap
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.events import Event
from shutterless.pipeline.injection.amplifiers import InjectionSettings, stamp_injection
from shutterless.pipeline.injection.frames import _hidden_by_rounding, add_to_frame, inject_frames, read_adu, true_adu
from shutterless.pipeline.reading.frames import Frame, FrameError, read_amplifier
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.simulation.truth import STAR_COLUMNS, TRUTH_COLUMNS
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier

BIAS_ADU, GAIN, READ_NOISE_E = 112.0, 6.2, 10.0
BURSTS = InjectionSettings(kinds=(("burst", 0.5), ("glint", 0.5)), rho=(40.0, 60.0), orphan_fraction=1.0, partial=0.0)
TINY = {"CHIP": 3, "CLOCK": 300.0, "ROW0": 5000, "SEQ": "night", "TINYCAM": "yes", "OBSERVER": "somebody"}


def exposed(rng, mean_e):
    """Readings of the ZTF profile, whole ADU, of pixels with these mean electrons."""
    electrons = rng.poisson(mean_e) + rng.normal(0, READ_NOISE_E, mean_e.shape)
    reading = read_adu(electrons / GAIN, load_profile("ztf").nonlinearity)
    return np.rint(reading + BIAS_ADU).astype(np.uint16)


@pytest.fixture
def star_frame(make_amplifier):
    """Frame and amplifier of one star of 30,000 e- a row on a sky of 300: ``star_frame(n_rows, seed)``."""

    def make(n_rows=20_000, seed=3):
        amplifier = make_amplifier(n_columns=32, n_rows=n_rows, noise=0, stars=((16.0, 30_000.0),))
        rng = np.random.default_rng(seed)
        mean = np.repeat(amplifier.baseline_e[0, :, :1].T.astype(np.float64), n_rows, axis=0)
        overscan = np.full((n_rows, 30), BIAS_ADU)
        return Frame(exposed(rng, mean), overscan, amplifier.readout, load_profile("ztf"), Path("f.fits")), amplifier

    return make


def electrons_of(frame):
    return GAIN * true_adu(frame.pixels_adu.astype(np.float64) - BIAS_ADU, frame.profile.nonlinearity)


@pytest.mark.parametrize(
    ("kind", "x", "amplitude_e", "shape"),
    [
        ("burst", 16.0, 4.0, (("profile", "tophat"),)),  # at most two electrons a pixel, a third of an ADU
        ("burst", 16.0, 9000.0, (("profile", "tophat"),)),
        ("eclipse", 16.0, -0.6 * 30_000.0, (("direction", "down"),)),
    ],
)
def test_changed_pixels_have_the_mean_and_variance_of_an_exposure(star_frame, kind, x, amplitude_e, shape):
    """Mean moved by the event to the last hundredth of an ADU; variance that of the new mean plus read noise."""
    frame, amplifier = star_frame()
    before = electrons_of(frame)
    scale = 40_000.0 if kind == "burst" else 0.5
    event = Event(kind, x, 0.0 if kind == "burst" else 20.0, scale, amplitude_e, star_id=0, shape=shape)
    add_to_frame(frame, amplifier, stamp_injection(amplifier, event, 30_000.0), np.random.default_rng(4))
    after = electrons_of(frame)[200:]
    level = amplifier.baseline_e[0, :, 0].astype(np.float64)
    signal = amplitude_e * (level - 300) / 30_000
    error = 5 / np.sqrt(len(after))
    moved = (after - before[200:]).mean(axis=0)
    np.testing.assert_allclose(moved, signal, atol=error * np.sqrt(np.abs(signal) + 2 * GAIN**2).max())
    variance = level + signal + READ_NOISE_E**2 + GAIN**2 / 12
    np.testing.assert_allclose(after.var(axis=0), variance, rtol=1.5 * error)


def test_the_register_does_to_an_event_what_it_does_to_a_star(star_frame):
    """Exposed with the event and read through the serial trap, or read through it and injected: the same means.

    The serial trap takes 19 e- from the event's first columns and gives them to those after it.
    """
    frame, amplifier = star_frame()
    serial_trap = load_profile("ztf").serial_trap
    rng = np.random.default_rng(9)
    event = Event("burst", 16.0, 0.0, 40_000.0, 900.0, shape=(("profile", "tophat"),))
    injection = stamp_injection(amplifier, event)
    dark = np.repeat(amplifier.baseline_e[0, :, :1].T.astype(np.float64) * 0 + 300.0, 19_900, axis=0)
    lit = dark.copy()
    lit[:, injection.columns] += injection.signal_e()[0].T[:19_900]
    readings = []
    for mean in (dark, lit):
        charge = rng.poisson(mean).astype(np.float64)
        apply_serial_trap(charge, serial_trap)
        noisy = charge + rng.normal(0, READ_NOISE_E, charge.shape)
        readings.append(np.rint(read_adu(noisy / GAIN, frame.profile.nonlinearity) + BIAS_ADU).astype(np.uint16))
    steady = replace(amplifier, baseline_e=np.full_like(amplifier.baseline_e, 300.0))
    dark_frame = replace(frame, pixels_adu=readings[0], overscan_adu=frame.overscan_adu[:19_900])
    injection = replace(injection, rows_lit=slice(0, 19_900), curve=injection.curve[:19_900])
    add_to_frame(dark_frame, steady, injection, rng, serial_trap)
    difference = (dark_frame.pixels_adu.astype(float) - readings[1]).mean(axis=0)
    np.testing.assert_allclose(difference, 0, atol=5 * np.sqrt(2 * 900.0) / GAIN / np.sqrt(19_900))


def test_what_rounding_hid_is_drawn_back():
    """Rounded readings of a Gaussian of 1.5 ADU: with the hidden part their variance is 2.25 again, without 1/12."""
    rng = np.random.default_rng(5)
    true = rng.normal(0.3, 1.5, 400_000)
    reading = np.rint(true)
    hidden = _hidden_by_rounding(rng, (reading - 0.3) / 2.25)
    assert np.abs(hidden).max() <= 0.5
    assert reading.var() == pytest.approx(2.25 + 1 / 12, rel=0.01)
    assert (reading + hidden).var() == pytest.approx(2.25, rel=0.01)
    assert (reading + hidden).mean() == pytest.approx(0.3, abs=0.01)
    flat = _hidden_by_rounding(rng, np.zeros(100_000))
    assert (flat.mean(), flat.var()) == (pytest.approx(0, abs=0.005), pytest.approx(1 / 12, rel=0.02))


def test_non_linearity_and_its_inverse():
    """ztfimg: true = x / (A x² + B x + 1)."""
    curve = load_profile("ztf").nonlinearity
    x = np.array([0.0, 100.0, 20_000.0, 48_000.0])
    np.testing.assert_allclose(read_adu(true_adu(x, curve), curve), x, rtol=1e-12)
    assert true_adu(x, curve)[2] == pytest.approx(20_000 / (-6.85e-12 * 4e8 + 1.885e-7 * 2e4 + 1))
    assert read_adu(x, None) is x
    assert true_adu(x, None) is x


def test_saturated_pixels_and_dropped_rows_stay_and_none_passes_saturation(star_frame):
    frame, amplifier = star_frame(n_rows=400)
    saturation = int(frame.readout.saturation_adu)
    frame.pixels_adu[100, 16] = saturation + 5
    frame.pixels_adu[105] = 0  # dropped
    event = Event("burst", 16.0, 100.0, 500.0, 2e6, shape=(("profile", "tophat"),))
    add_to_frame(frame, amplifier, stamp_injection(amplifier, event), np.random.default_rng(1))
    assert frame.pixels_adu[100, 16] == saturation + 5
    assert frame.pixels_adu[101:120, 16].tolist() == [saturation] * 4 + [0] + [saturation] * 14
    assert not frame.pixels_adu[105].any()


def write_tiny(write_frame, name, n_rows=3000):
    """A frame of the small camera with one star in each quadrant."""
    rng = np.random.default_rng(8)
    columns = np.arange(64)
    data, overscan = [], []
    for x in (20.3, 41.0):
        light = 200 + 3000 * np.exp(-0.5 * ((columns - x) / 0.85) ** 2) / 2.13
        electrons = rng.poisson(np.broadcast_to(light, (n_rows, 64))) + rng.normal(0, 5, (n_rows, 64))
        data.append(np.rint(electrons / 2.0 + 100).astype(np.uint16))
        overscan.append(np.rint(rng.normal(100, 2.5, (n_rows, 30))).astype(np.uint16))
    return write_frame(name, data, overscan, TINY, [{"AMPNO": number, "FILE": "original"} for number in (1, 2)])


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
def test_the_copy_differs_where_the_truth_says_and_nowhere_else(write_frame, tiny_profile, tmp_path, suffix):
    path = write_tiny(write_frame, f"tiny{suffix}")
    original = path.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    injected = inject_frames(path, out, BURSTS, events=3, seed=1, instrument=tiny_profile)
    copy, truth, stars = injected.path, injected.truth, injected.stars
    assert injected.skipped == {}
    assert path.read_bytes() == original
    assert [file.name for file in out.iterdir()] == [path.name]
    with fits.open(path) as before, fits.open(copy) as after:
        for one, other in zip(before, after, strict=True):
            assert type(one) is type(other)
            assert [str(card) for card in one.header.cards] == [str(card) for card in other.header.cards]
        for overscan in (3, 4):
            np.testing.assert_array_equal(before[overscan].data, after[overscan].data)
        assert after[1].data.dtype == before[1].data.dtype
    assert {name: str(kind) for name, kind in truth.dtypes.items()} == TRUTH_COLUMNS
    assert {name: str(kind) for name, kind in stars.dtypes.items()} == STAR_COLUMNS
    assert set(truth["quadrant"]) == {1, 2}
    assert (truth["file"] == path.name).all()
    for quadrant, rows in truth.groupby("quadrant"):
        change = read_amplifier(copy, quadrant, tiny_profile).pixels_adu.astype(np.int64)
        change -= read_amplifier(path, quadrant, tiny_profile).pixels_adu
        untouched = np.ones(change.shape, dtype=bool)
        for event in rows.itertuples():
            near = np.s_[
                max(event.row_start - 400, 0) : event.row_stop + 400, max(int(event.x) - 7, 0) : int(event.x) + 9
            ]
            untouched[near] = False
            light = change[near].sum(axis=1)
            inside = light[event.row_start - near[0].start : event.row_stop - near[0].start + 1].sum()
            assert inside == pytest.approx(0.9 * light.sum(), rel=0.1)
            column = np.average(np.arange(*near[1].indices(64)), weights=np.maximum(change[near].sum(axis=0), 0))
            assert column == pytest.approx(event.x, abs=0.5)
        assert not change[untouched].any()


def test_the_same_seed_gives_the_same_copy_and_another_another(write_frame, tiny_profile, tmp_path):
    path = write_tiny(write_frame, "tiny.fits")
    copies = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        copies.append(inject_frames(path, tmp_path / folder, BURSTS, events=2, seed=seed, instrument=tiny_profile))
    assert copies[0].path.read_bytes() == copies[1].path.read_bytes() != copies[2].path.read_bytes()
    assert copies[0].truth.equals(copies[1].truth)


@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
def test_checksums_of_changed_images_are_renewed(write_frame, tiny_profile, tmp_path, suffix):
    path = write_tiny(write_frame, f"tiny{suffix}")
    with fits.open(path, mode="update", checksum=True):
        pass
    out = tmp_path / "out"
    out.mkdir()
    copy = inject_frames(path, out, BURSTS, events=1, seed=1, instrument=tiny_profile).path
    with fits.open(copy, checksum=True) as hdus:  # a wrong one is a warning, and so an error here
        assert all(hdu.data is None or hdu.data.any() for hdu in hdus)
        assert "CHECKSUM" in hdus[0].header


def test_an_input_is_never_replaced(write_frame, tiny_profile):
    path = write_tiny(write_frame, "tiny.fits", n_rows=300)
    with pytest.raises(FrameError, match=r"tiny.fits: the copy with events would replace it; choose another folder"):
        inject_frames(path, path.parent, BURSTS, events=1, seed=1, instrument=tiny_profile)


def test_a_camera_that_numbers_no_ccd_leaves_it_null(write_frame, tiny_profile, tmp_path):
    path = write_tiny(write_frame, "tiny.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["CHIP"]
    (tmp_path / "out").mkdir()
    injected = inject_frames(path, tmp_path / "out", BURSTS, events=1, seed=1, instrument=tiny_profile)
    assert injected.truth["ccd"].isna().all()
    assert injected.stars["ccd"].isna().all()


def test_a_dead_amplifier_is_copied_as_it_is(write_frame, tiny_profile, tmp_path):
    path = write_tiny(write_frame, "tiny.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[2].data[:] = 100
    (tmp_path / "out").mkdir()
    injected = inject_frames(path, tmp_path / "out", BURSTS, events=1, seed=1, instrument=tiny_profile)
    assert set(injected.truth["quadrant"]) == {1}
    assert list(injected.skipped) == [2]
    assert "all pixels equal 100" in injected.skipped[2]
    assert (fits.getdata(injected.path, 2) == 100).all()
    with fits.open(path, mode="update") as hdus:
        hdus[1].data[:] = 100
    with pytest.raises(FrameError, match=r"quadrant 1: all pixels equal 100"):
        inject_frames(path, tmp_path / "out", BURSTS, events=1, seed=1, instrument=tiny_profile)


def test_bright_events_in_frames_of_another_program_are_found_where_the_truth_says(tmp_path):
    """Two quadrants that flip differently; flares and occultations on their stars, bursts on none."""
    stars = [another_program.Star(q, 300.0 + 270 * n, 0, 900.0 * (n + 1)) for q in (1, 2, 3, 4) for n in range(10)]
    path = tmp_path / "other.fits"
    another_program.write_frame(path, first_row=20_000, n_rows=4096, stars=stars, pulses=[])
    (tmp_path / "out").mkdir()
    settings = replace(InjectionSettings(), rho=(12.0, 25.0), partial=0.0)
    injected = inject_frames(path, tmp_path / "out", settings, events=12, seed=2)
    copy, truth = injected.path, injected.truth
    found, n_events = 0, 0
    for quadrant in (2, 4):
        row = ingest_amplifier(copy, quadrant, tmp_path / "store")
        triggers = find_triggers(open_amplifier(tmp_path / "store", row["entry"]))
        events = truth[truth["quadrant"] == quadrant]
        strong = triggers[(triggers["snr"].abs() > 7) & (triggers["veto"] == "")]
        found += len(set(match_truth(strong, events)) - {-1})
        n_events += len(events)
    assert n_events >= 20
    assert found >= 0.8 * n_events
