"""The quality of amplifiers is read back from their store."""

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.quality import expected_tails
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.store.quality_record import read_quality
from shutterless.pipeline.store.store import EntryWriter, StoreError

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080)


def write_entry(store, *, level_e=300.0, tails=None, noise=None, **arrays):
    """An amplifier of 200 columns and 6,400 rows with a star on columns 50 to 54; arrays as given."""
    baseline = np.full((1, 200, 100), level_e, dtype=np.float32)
    baseline[0, 50:55] *= 2
    arrays |= {"baseline_e": baseline, "sigma_e": np.sqrt(baseline + 104), "row_residual": np.zeros(6400, np.float32)}
    arrays |= {} if noise is None else {"column_noise": noise.astype(np.float32)}
    arrays |= {} if tails is None else {"column_tails": tails}
    description = {"file": "a.fits", "readout": READOUT.to_dict(), "psf_sigma_px": 0.84, "live_pixel_rows": 1_080_000}
    with EntryWriter(store, "a_c01_q1", n_columns=200, n_rows=6400) as writer:
        writer.residual[:] = 0
        writer.finish(arrays, pd.DataFrame({"x": [52.0]}), description)
    return read_quality(store, "a_c01_q1")


def test_quality_of_the_sky_leaves_out_the_star_and_bad_columns(tmp_path):
    noise = np.ones(200)
    noise[50:55], noise[100:120] = 3.0, np.nan
    noise[:87] += np.where(np.arange(87) < 50, 0.01, 0)
    tails = np.tile(np.array([[1, 2]], dtype=np.int32), (200, 1))
    quality = write_entry(tmp_path, noise=noise, tails=tails)
    assert quality.sky.sum() == 175
    assert quality.sky_noise == pytest.approx(np.sqrt((50 * 1.01**2 + 125) / 175), rel=1e-6)
    assert quality.sky_tails.tolist() == [175, 350]
    share = np.array(expected_tails(300, np.sqrt(104)))
    np.testing.assert_allclose(quality.expected_tails, share * 1_080_000 / 180 * 175, rtol=1e-3)
    assert quality.live_hours == pytest.approx(1_080_000 / (200 * 300 * 3600))


def test_tails_of_a_ramp_are_expected_at_the_level_of_each_row(tmp_path):
    """Half of the rows have no light, half 600 electrons."""
    level = np.where(np.arange(100) < 50, 0.001, 600.0)
    ones = np.ones(200)
    quality = write_entry(tmp_path, level_e=level, noise=ones, tails=np.zeros((200, 2), dtype=np.int32))
    dark, bright = np.array(expected_tails(0.001, np.sqrt(104))), np.array(expected_tails(600, np.sqrt(104)))
    np.testing.assert_allclose(quality.expected_tails, (dark + bright) / 2 * 1_080_000 / 200 * 195, rtol=0.01)


def test_entry_of_an_older_version_has_no_noise_and_no_tails(tmp_path):
    quality = write_entry(tmp_path)
    assert quality.column_noise is None
    assert quality.column_tails is None
    assert quality.row_offset_e is None
    assert np.isnan(quality.sky_noise)
    assert np.isnan(quality.sky_tails).all()
    assert quality.sky.sum() == 195


def test_absent_entry_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no finished entry 'b_c01_q1' of version 2; ingest it again"):
        read_quality(tmp_path, "b_c01_q1")


def test_array_of_another_length_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"column_noise.npy has shape \(199,\), its amplifier needs \(200,\); ingest"):
        write_entry(tmp_path, noise=np.ones(199))
