"""The same sky and camera, clocked at 20, 300 and 1,000 rows/s: events last as long, and are found as well."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.light_curves import event_light_curve
from shutterless.pipeline.psf import pixel_profile

SECONDS, N_COLUMNS, SKY_E, READ_NOISE_E, GAIN, PSF_SIGMA_PX = 150, 48, 300.0, 5.0, 2.0, 0.85
NOISE_E, RHO = np.sqrt(SKY_E + READ_NOISE_E**2 + GAIN**2 / 12), 25.0
# column, middle (s), length of a top-hat or width of a flare (s)
BURSTS = ((10.0, 60.0, 3.0), (22.3, 90.0, 0.15))
FLARE = (33.6, 110.0, 0.2)
DRIFTING_X, DRIFT_E_PER_ROOT_S = 42.0, 0.05  # a star that brightens all the time


def sky(row_rate_hz: float) -> np.ndarray:
    """Expected electrons (t, x)."""
    rows = np.arange(round(SECONDS * row_rate_hz))
    expected = np.full((len(rows), N_COLUMNS), SKY_E)
    shapes = [(*burst, "burst", {"profile": "tophat"}) for burst in BURSTS] + [(*FLARE, "flare", {})]
    for x, middle_s, scale_s, kind, words in shapes:
        curve = event_light_curve(kind, len(rows), middle_s * row_rate_hz, scale_s * row_rate_hz, PSF_SIGMA_PX, **words)
        light = np.outer(curve, pixel_profile(np.arange(N_COLUMNS) - x, PSF_SIGMA_PX))
        expected += RHO * NOISE_E / np.linalg.norm(light) * light
    # in as much time its light grows by as many sigma at every rate
    drift_e = 100 + DRIFT_E_PER_ROOT_S * NOISE_E * rows / row_rate_hz / np.sqrt(row_rate_hz)
    return expected + np.outer(drift_e, pixel_profile(np.arange(N_COLUMNS) - DRIFTING_X, PSF_SIGMA_PX))


@pytest.fixture(params=[20.0, 300.0, 1000.0])
def found(request, make_frame, tiny_profile) -> pd.DataFrame:
    """Triggers that no veto excludes, with times in seconds."""
    expected = sky(request.param)
    noisy = expected + np.sqrt(expected + READ_NOISE_E**2) * np.random.default_rng(3).standard_normal(expected.shape)
    pixels = np.rint(noisy / GAIN + 100).astype(np.uint16)
    frame = make_frame(pixels, tiny_profile, row_rate_hz=request.param, seeing_arcsec=2.0)
    calibrated = calibrate_exposure(frame, np.empty(exposure_shape(frame), np.float16))
    triggers = find_triggers(calibrated.amplifier("small"))
    triggers = triggers[(triggers["veto"] == "") & (triggers["snr"].abs() > 6.5)]
    return triggers.assign(
        start_s=triggers["row_start"] / request.param, seconds=triggers["width_rows"] / request.param
    )


def test_events_of_the_same_seconds_are_found_whole_at_every_row_rate(found):
    """A burst of 3 s, one of 0.15 s and a flare have the S/N of their whole light; the star that brightens has none.

    With windows of 300 rows/s that star has two triggers at 20 rows/s, and the long burst is two halves at 1,000.
    """
    assert sorted(found["x"].round()) == [10, 22, 34]
    long, short, flare = (
        found[(found["x"] - x).abs() < 1].iloc[0] for x in (*(burst[0] for burst in BURSTS), FLARE[0])
    )
    for event in (long, short, flare):
        assert 0.8 * RHO < event["snr"] < 1.2 * RHO
    assert (long["start_s"], long["seconds"]) == (pytest.approx(58.5, abs=0.6), pytest.approx(2.7, abs=0.6))
    assert short["start_s"] == pytest.approx(89.93, abs=0.1)
    assert short["seconds"] < 0.4
    assert flare["start_s"] == pytest.approx(109.9, abs=0.2)
