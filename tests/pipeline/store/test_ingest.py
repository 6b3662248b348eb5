from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shutterless.pipeline.reading.frames import FrameError
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import MANIFEST_COLUMNS, open_amplifier, read_entry, read_manifest, write_manifest

FULL_COLUMNS = 3072


@pytest.fixture
def tiny_settings(tiny_profile) -> SceneSettings:
    return SceneSettings(
        instrument=tiny_profile,
        rows=700,
        events=0,
        artefacts=False,
        n_bright_stars=5000,
        first_row=None,
        suffix=".fits",
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Event-free ZTF frame of 5,000 rows in the steady state, quadrant 1, in a store: amplifier, its row, its stars."""
    folder = tmp_path_factory.mktemp("full")
    settings = SceneSettings(
        rows=5000, events=0, artefacts=False, first_row=None, suffix=".fits", n_bright_stars=100, faint_mag=14.5
    )
    profile = folder / "one.toml"
    text = (Path(__file__).parents[3] / "pipeline" / "reading" / "profiles" / "ztf.toml").read_text()
    quadrant = "[[quadrants]]\ndata_hdu = 1\noverscan_hdu = 2\nflip_columns = true\nflip_rows = true\n"
    start, stop = text.index("[[quadrants]]"), text.index("# where each value")
    profile.write_text(text[:start] + quadrant + text[stop:])
    settings = replace(settings, instrument=str(profile))
    path, _, stars = simulate_file(settings, 1, 0, folder)
    row = ingest_amplifier(path, 1, folder / "store", instrument=str(profile))
    return open_amplifier(folder / "store", row["entry"]), row, stars


def test_sky_columns_are_white_noise_of_unit_variance(full):
    amplifier, row, stars = full
    distance = np.min(np.abs(np.arange(FULL_COLUMNS)[:, None] - stars["x"].to_numpy()), axis=1)
    sky = np.asarray(amplifier.residual[0][distance > 6], dtype=np.float32)
    assert len(sky) > 100
    assert np.nanstd(sky) == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(sky[:, :-1].ravel(), sky[:, 1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(sky[:, :-40].ravel(), sky[:, 40:].ravel())[0, 1]) < 0.03
    assert row["noise"] == pytest.approx(1, abs=0.02)
    assert row["live_pixel_rows"] == amplifier.residual.size


def test_streaks_of_isolated_stars_are_recovered(full):
    amplifier, row, stars = full
    x, mag = stars["x"].to_numpy(), stars["mag"].to_numpy()
    apart = np.abs(x[:, None] - x) + 99 * np.eye(len(x))
    isolated = (mag < 14) & (apart.min(axis=1) > 8) & (x > 5) & (x < FULL_COLUMNS - 6)
    assert isolated.sum() >= 10
    streaks = amplifier.streaks
    nearest = np.argmin(np.abs(streaks["x"].to_numpy()[None, :] - x[isolated, None]), axis=1)
    np.testing.assert_allclose(streaks["x"].iloc[nearest], x[isolated], atol=0.05)
    np.testing.assert_allclose(streaks["mag"].iloc[nearest], mag[isolated], atol=0.033)  # 3 % of flux
    assert amplifier.psf_sigma_px == pytest.approx(0.84, abs=0.01)
    assert row["n_streaks"] == len(streaks)


def test_baseline_and_sigma_belong_together(full):
    amplifier = full[0]
    floor_e2 = 10.0**2 + 6.2**2 / 12
    np.testing.assert_allclose(amplifier.sigma_e**2, amplifier.baseline_e + floor_e2, rtol=1e-4)
    # sky of r = 20.8 is 314 e- a transit; the wings of stars add a little
    assert amplifier.sky_e == pytest.approx(314, rel=0.05)


def test_saturated_pixels_are_masked_and_not_counted(write_frame, tmp_path):
    rng = np.random.default_rng(1)
    data = [rng.integers(180, 220, (40, FULL_COLUMNS)).astype(np.uint16) for _ in range(4)]
    data[2][0, 5] = data[2][1, 5] = 48_000  # quadrant 3 flips rows and columns
    path = write_frame(data=data, primary={"SEQROW0": None})
    row = ingest_amplifier(path, 3, tmp_path / "store")
    amplifier = open_amplifier(tmp_path / "store", row["entry"])
    masked = np.argwhere(np.isnan(amplifier.residual[0]))
    assert masked.tolist() == [[FULL_COLUMNS - 1 - 5, 38], [FULL_COLUMNS - 1 - 5, 39]]
    assert row["live_pixel_rows"] == amplifier.live_pixel_rows == 40 * FULL_COLUMNS - 2


def test_manifest_row_says_where_the_entry_came_from(write_frame, tmp_path):
    path = write_frame("night.fits", primary={"SEQROW0": 6000})
    row = ingest_amplifier(path, 2, tmp_path / "store")
    assert tuple(row) == MANIFEST_COLUMNS
    expected = {"entry": "night_c01_q2", "file": "night.fits", "ccd": 1, "quadrant": 2, "n_rows": 20, "first_row": 6000}
    expected |= {"n_columns": FULL_COLUMNS, "row_rate_hz": 300.0, "sequence": "fake", "band": "r", "instrument": "ztf"}
    assert {key: row[key] for key in expected} == expected
    assert row["source"] == str(path.resolve())
    write_manifest(tmp_path / "store", [row])
    assert read_manifest(tmp_path / "store")["content_hash"].tolist() == [row["content_hash"]]


def test_resumed_entry_is_kept_and_equals_a_fresh_one(tiny_settings, tiny_profile, tmp_path):
    path, _, _ = simulate_file(tiny_settings, 1, 0, tmp_path)
    arguments = {"instrument": tiny_profile}
    first = ingest_amplifier(path, 2, tmp_path / "store", **arguments)
    written = (tmp_path / "store" / first["entry"] / "entry.json").stat().st_mtime_ns
    resumed = ingest_amplifier(path, 2, tmp_path / "store", **arguments, resume=True)
    assert resumed == first
    assert (tmp_path / "store" / first["entry"] / "entry.json").stat().st_mtime_ns == written
    fresh = ingest_amplifier(path, 2, tmp_path / "other", **arguments)
    assert fresh["content_hash"] == first["content_hash"]


def test_resume_does_again_what_was_cut_off(tiny_settings, tiny_profile, tmp_path):
    path, _, _ = simulate_file(tiny_settings, 1, 0, tmp_path)
    first = ingest_amplifier(path, 1, tmp_path / "store", instrument=tiny_profile)
    folder = tmp_path / "store" / first["entry"]
    (folder / "entry.json").unlink()
    (folder / "residual.npy").write_bytes(b"half")
    again = ingest_amplifier(path, 1, tmp_path / "store", instrument=tiny_profile, resume=True)
    assert again == first
    assert open_amplifier(tmp_path / "store", first["entry"]).residual.shape == (1, 64, 700)


def test_resume_does_again_what_was_made_from_something_else(tiny_settings, tiny_profile, tmp_path):
    store = tmp_path / "store"
    path, _, _ = simulate_file(tiny_settings, 1, 0, tmp_path)
    first = ingest_amplifier(path, 1, store, instrument=tiny_profile)
    supplied = ingest_amplifier(path, 1, store, instrument=tiny_profile, supplied={"RDN": "7"}, resume=True)
    assert supplied["content_hash"] != first["content_hash"]
    simulate_file(replace(tiny_settings, seed=2), 1, 0, tmp_path)
    changed = ingest_amplifier(path, 1, store, instrument=tiny_profile, resume=True)
    assert changed["content_hash"] not in (first["content_hash"], supplied["content_hash"])


def test_values_given_by_the_user_are_recorded(tiny_settings, tiny_profile, tmp_path):
    path, _, _ = simulate_file(tiny_settings, 1, 0, tmp_path)
    row = ingest_amplifier(path, 1, tmp_path / "store", instrument=tiny_profile, supplied={"CLOCK": "250"})
    assert row["row_rate_hz"] == 250
    assert open_amplifier(tmp_path / "store", row["entry"]).readout.supplied == (("CLOCK", "250"),)


def test_unreadable_amplifier_leaves_no_entry(write_frame, tmp_path):
    data = [np.full((20, FULL_COLUMNS), 200, dtype=np.uint16) for _ in range(4)]
    path = write_frame(data=data)
    with pytest.raises(FrameError, match=r"quadrant 1: all pixels equal 200; the amplifier is skipped"):
        ingest_amplifier(path, 1, tmp_path / "store")
    with pytest.raises(FrameError, match=r"quadrant 5 is not one of 1..4 of ztf"):
        ingest_amplifier(path, 5, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert read_entry(tmp_path / "store", "fake_c01_q1") is None
