"""Where header and pixels contradict each other, the pixels are believed, and that is said."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_frames import GAIN, N_COLUMNS, NOISE_E, READ_NOISE_E, SKY_E, add_pulse

from shutterless.pipeline.calibration.exposure import Calibrated, calibrate_exposure, exposure_shape
from shutterless.pipeline.detection.triggers import find_triggers

ROW, RHO = 700, 25.0


@pytest.fixture
def calibrate(make_frame, tiny_profile):
    """Calibrate one small frame with a pulse, its header changed."""
    expected = np.full((1280, N_COLUMNS), SKY_E)
    add_pulse(expected, ROW, 30.0, 3.0, RHO)
    rng = np.random.default_rng(2)
    noisy = rng.poisson(expected) + rng.normal(0, READ_NOISE_E, expected.shape)
    pixels = np.rint(noisy / GAIN + 100).astype(np.uint16)

    def run(**header) -> Calibrated:
        frame = make_frame(pixels, tiny_profile, first_row=None, **header)
        return calibrate_exposure(frame, np.empty(exposure_shape(frame), np.float16))

    return run


def strongest(calibrated: Calibrated) -> tuple[int, float]:
    triggers = find_triggers(calibrated.amplifier("small"))
    best = triggers.loc[triggers["snr"].abs().idxmax()]
    return int(best["row_peak"]), float(best["snr"])


def test_true_headers_change_nothing(calibrate):
    calibrated = calibrate()
    assert calibrated.description["notes"] == []
    assert calibrated.arrays["sigma_e"].mean() == pytest.approx(NOISE_E, rel=0.05)


@pytest.mark.parametrize("header", [{"read_noise_e": 200.0}, {"gain_e_per_adu": 0.2}, {"gain_e_per_adu": 20.0}])
def test_event_is_found_whatever_noise_the_header_says(calibrate, header):
    calibrated = calibrate(**header)
    (note,) = calibrated.description["notes"]
    assert note.endswith("times what GAIN and READNOI say; that of the data is taken")
    assert calibrated.description["noise"] == pytest.approx(1, abs=0.1)
    row, snr = strongest(calibrated)
    assert abs(row - ROW) <= 2
    assert snr == pytest.approx(strongest(calibrate())[1], rel=0.1)


def test_saturation_below_the_sky_is_not_believed(calibrate):
    calibrated = calibrate(saturation_adu=150.0)
    assert calibrated.description["notes"] == ["SATUR = 150 ADU is exceeded by 100% of all pixels: it is not used"]
    assert strongest(calibrated) == strongest(calibrate())
