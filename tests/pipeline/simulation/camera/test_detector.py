from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.serial_trap import apply_serial_trap
from shutterless.pipeline.reading.frames import read_amplifier
from shutterless.pipeline.reading.instruments import ProfileError, SerialTrap, load_profile
from shutterless.pipeline.simulation.camera.artefacts import CosmicRay
from shutterless.pipeline.simulation.camera.detector import (
    Blinking,
    DetectorFaults,
    HotColumn,
    Trap,
    draw_detector,
    draw_dropped_rows,
    pass_trap,
)
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import draw_scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
from shutterless.pipeline.simulation.truth import truth_rows

SERIAL_TRAP = "\n[serial_trap]\ncapacity_e = 756.0\nexponent = 1.52\nflux_exponent = 0.372\nfull_well_e = 3.2e5\n"


@pytest.fixture
def faulty(tiny_profile) -> SceneSettings:
    """64 columns of quiet sky whose detector has faults."""
    return SceneSettings(
        instrument=tiny_profile,
        rows=2000,
        events=0,
        artefacts=False,
        n_bright_stars=0,
        sky_mag=17.0,
        detector=True,
        suffix=".fits",
        first_row=100,
    )


def expose(settings: SceneSettings, detector: DetectorFaults, **content) -> tuple[np.ndarray, np.ndarray]:
    """Electrons above the bias in data and overscan."""
    scene = draw_scene(settings, 1, 1)
    whole = AmplifierContent(scene, settings.sequence_rows(0), detector=detector, **content)
    data, overscan = render(settings, whole, np.random.default_rng(1))
    return (data - 100.0) * 2.0, (overscan - 100.0) * 2.0


def flat(n: int = 94) -> np.ndarray:
    return np.zeros(n)


def test_a_hot_column_is_one_column_wide_and_as_noisy_as_its_charge(faulty):
    data, _ = expose(faulty, DetectorFaults(flat(), [HotColumn(20, 150.0)]))
    sky = draw_scene(faulty, 1, 1).sky_e_s * 50 / 300
    excess = data.mean(axis=0) - sky
    assert excess[20] == pytest.approx(150, abs=5 * np.sqrt((sky + 175) / 2000))
    np.testing.assert_allclose(np.delete(excess, 20), 0, atol=5 * np.sqrt((sky + 26) / 2000))
    assert data[:, 20].var() == pytest.approx(sky + 150 + 25 + 4 / 12, rel=5 * np.sqrt(2 / 2000))


@pytest.mark.parametrize(("on_s", "off_s"), [(0.05, 0.05), (2.0, 0.5), (0.3, 5.0)])
def test_blinking_has_the_dwell_times_asked_for(on_s, off_s):
    # some thousand dwell times at 1,000 rows/s
    n_rows = int(3000 * 1000 * (on_s + off_s))
    states = Blinking(7, on_s, off_s).states(-500, n_rows, 1000.0)
    switches = np.flatnonzero(np.diff(states))
    dwell = np.diff(switches) / 1000
    first_on = bool(states[switches[0] + 1])
    on, off = dwell[0 if first_on else 1 :: 2], dwell[1 if first_on else 0 :: 2]
    # exponential: the standard deviation is the mean; states shorter than a row are missed
    assert on.mean() == pytest.approx(on_s, rel=0.1)
    assert off.mean() == pytest.approx(off_s, rel=0.1)
    assert on.std() == pytest.approx(on_s, rel=0.15)
    assert states.mean() == pytest.approx(on_s / (on_s + off_s), abs=0.03)


def test_blinking_is_the_same_from_wherever_it_is_asked():
    blinking = Blinking(3, 1.5, 4.0)
    whole = blinking.states(0, 9000, 300.0)
    for first, n_rows in ((0, 1), (1023, 2), (4000, 500), (8999, 1)):
        np.testing.assert_array_equal(blinking.states(first, n_rows, 300.0), whole[first : first + n_rows])
    assert np.any(Blinking(4, 1.5, 4.0).states(0, 9000, 300.0) != whole)


def test_a_trap_solved_by_hand():
    # captures a tenth, releases half of its charge per row, and holds 15 at most
    trap = Trap(0, 15.0, 0.1, 1 / np.log(2))
    charge = np.array([100.0, 0.0, 0.0, 300.0, 0.0])
    held = pass_trap(charge, trap, 0.0)
    np.testing.assert_allclose(charge, [90, 5, 2.5, 300 + 1.25 - 13.75, 7.5])
    assert held == pytest.approx(7.5)
    assert charge.sum() + held == pytest.approx(400)


def test_a_trap_has_no_effect_on_a_constant_column():
    trap = Trap(0, 500.0, 0.01, 30.0)
    charge = np.full(50, 314.0)
    assert pass_trap(charge, trap, trap.filling_e(314.0)) == pytest.approx(trap.filling_e(314.0))
    np.testing.assert_allclose(charge, 314.0)


def test_a_cosmic_ray_leaves_a_tail_in_the_trapped_column_only(faulty):
    trap = Trap(30, 500.0, 0.02, 20.0)
    rays = [CosmicRay(np.array([1000, 1000]), np.array([30, 40]), np.array([15_000.0, 15_000.0]))]
    scene = draw_scene(faulty, 1, 1)
    tails = []
    for seed in range(40):
        content = AmplifierContent(
            scene, faulty.sequence_rows(0), cosmic_rays=rays, detector=DetectorFaults(flat(), traps=[trap])
        )
        data = render(faulty, content, np.random.default_rng(seed))[0] * 2.0
        tails.append(data[1001:1061].sum(axis=0) - data[900:960].sum(axis=0))
    tail = np.mean(tails, axis=0)
    # 300 e- are taken, all but e^-3 come out within 60 rows
    error = np.sqrt(2 * 60 * (scene.sky_e_s * 50 / 300 + 26) / 40)
    assert tail[30] == pytest.approx(300 * (1 - np.exp(-3)), abs=5 * error)
    assert tail[40] == pytest.approx(0, abs=5 * error)


def test_dropped_rows_are_zero_in_data_and_overscan_of_all_amplifiers(faulty, tmp_path):
    settings = replace(faulty, dropped_runs_per_hour=3000.0)
    path, truth, _ = simulate_file(settings, 1, 0, tmp_path)
    lost = truth[truth.kind == "dropped_rows"]
    assert len(lost) > 4
    expected = np.zeros(2000, dtype=bool)
    for start, stop in zip(lost.row_start, lost.row_stop, strict=True):
        expected[start : stop + 1] = True
        assert 1 <= stop - start + 1 <= 20
    for quadrant in (1, 2):
        frame = read_amplifier(path, quadrant, instrument=settings.instrument)
        for pixels in (frame.pixels_adu, frame.overscan_adu):
            np.testing.assert_array_equal(np.all(pixels == 0, axis=1), expected)
    same = lost.groupby("quadrant").row_start.apply(list)
    assert same[1] == same[2]


def test_rate_and_length_of_dropped_runs():
    rng = np.random.default_rng(1)
    runs = [run for _ in range(200) for run in draw_dropped_rows(rng, 1_080_000, 300.0, 4.0)]  # 200 hours
    assert len(runs) == pytest.approx(800, abs=4 * np.sqrt(800))
    assert {length for _, length in runs} == set(range(1, 21))
    short = draw_dropped_rows(np.random.default_rng(2), 3, 300.0, 1e7)
    assert (0, 3) in short
    assert all(first >= 0 and first + length <= 3 for first, length in short)


def test_traps_let_go_after_as_many_seconds_at_every_row_rate():
    fast, slow = (
        draw_detector(np.random.default_rng(4), 500, 30, hot_columns=0, traps=20.0, row_rate_hz=rate).traps
        for rate in (1000.0, 20.0)
    )
    assert len(fast) > 10
    assert [t.release_rows / 1000 for t in fast] == pytest.approx([t.release_rows / 20 for t in slow])


def test_faults_drawn_are_as_many_and_as_strong_as_asked():
    detectors = [
        draw_detector(np.random.default_rng(s), 500, 30, hot_columns=4.0, traps=2.0, row_rate_hz=300.0)
        for s in range(300)
    ]
    hot = [column for detector in detectors for column in detector.hot_columns]
    traps = [trap for detector in detectors for trap in detector.traps]
    assert len(hot) == pytest.approx(1200, abs=4 * np.sqrt(1200))
    assert len(traps) == pytest.approx(600, abs=4 * np.sqrt(600))
    assert np.mean([column.blinking is not None for column in hot]) == pytest.approx(0.4, abs=0.06)
    assert all(0.05 <= c.blinking.on_s <= 5.0 for c in hot if c.blinking is not None)
    assert all(50 <= trap.capacity_e <= 500 and 5 <= trap.release_rows <= 100 for trap in traps)
    for detector in detectors:
        columns = [fault.column for fault in (*detector.hot_columns, *detector.traps)]
        assert len(set(columns)) == len(columns)
    # 2 e- white and 2 e- of waves
    assert np.std([detector.pattern_e for detector in detectors]) == pytest.approx(np.sqrt(8), rel=0.05)


def test_bias_structure_is_in_every_row_and_the_overscan(faulty):
    pattern = np.linspace(-20, 20, 94)
    data, overscan = expose(faulty, DetectorFaults(pattern))
    sky = draw_scene(faulty, 1, 1).sky_e_s * 50 / 300
    np.testing.assert_allclose(data.mean(axis=0) - sky, pattern[:64], atol=5 * np.sqrt((sky + 26) / 2000))
    np.testing.assert_allclose(overscan[:, 20:].mean(axis=0), pattern[84:], atol=0.7)


def test_the_serial_trap_empties_into_the_overscan(faulty, tmp_path):
    path = tmp_path / "serial_trap.toml"
    path.write_text(Path(faulty.instrument).read_text() + SERIAL_TRAP)
    settings = replace(faulty, instrument=str(path))
    assert settings.profile.serial_trap == load_profile("ztf").serial_trap == SerialTrap(756.0, 1.52, 0.372, 3.2e5)
    ray = CosmicRay(np.repeat(np.arange(2000), 1), np.full(2000, 63), np.full(2000, 20_000.0))
    data, overscan = expose(settings, DetectorFaults(flat()), cosmic_rays=[ray])
    plain, empty = expose(faulty, DetectorFaults(flat()), cosmic_rays=[ray])
    sky = draw_scene(settings, 1, 1).sky_e_s * 50 / 300
    expected = np.concatenate([np.full(63, sky), [sky + 20_000], np.zeros(30)])[None]
    apply_serial_trap(expected, settings.profile.serial_trap)
    assert expected[0, 63] < sky + 20_000 - 100
    assert (data - plain)[:, 63].mean() == pytest.approx(expected[0, 63] - sky - 20_000, abs=6)
    np.testing.assert_allclose((overscan - empty).mean(axis=0), expected[0, 64:], atol=1.5)


def test_without_faults_the_pixels_are_those_without_a_detector(faulty):
    content = draw_content(replace(faulty, detector=False), 1, 1, 0)
    assert content.detector is None
    plain = render(faulty, content, np.random.default_rng(1))
    none = render(faulty, replace(content, detector=DetectorFaults(flat())), np.random.default_rng(1))
    for one, other in zip(plain, none, strict=True):
        np.testing.assert_array_equal(one, other)


def test_truth_of_faults_solved_by_hand(faulty):
    scene = draw_scene(faulty, 1, 1)
    sky = scene.sky_e_s * 50 / 300
    detector = DetectorFaults(flat(), [HotColumn(20, 30.0)], [Trap(7, 500.0, 0.01, 20.0)], [(50, 3)])
    truth = truth_rows(AmplifierContent(scene, range(100, 2100), detector=detector), "f.fits", 1, 2)
    assert list(truth.kind) == ["hot_column", "trap", "dropped_rows"]
    assert not truth.is_event.any()
    assert list(truth.row_start) == [0, 0, 50]
    assert list(truth.row_stop) == [1999, 1999, 52]
    assert list(truth.sign) == [1, -1, -1]
    np.testing.assert_allclose(truth.amplitude_e, [30.0, -0.01 * sky, -64 * sky])
    np.testing.assert_allclose(truth.rho, [30 * np.sqrt(2000 / (sky + 25)), np.nan, sky * np.sqrt(3 * 64 / (sky + 25))])
    assert truth.duration_s[2] == pytest.approx(3 / 300)


def test_faults_last_from_file_to_file(faulty, tmp_path):
    settings = replace(faulty, files=2, hot_columns=6.0, traps=3.0, first_row=0, rows=700)
    joined = pd.concat([simulate_file(settings, 1, index, tmp_path)[1] for index in (0, 1)])
    lasting = joined[joined.kind.isin(["hot_column", "trap"])]
    assert lasting["quadrant"].unique().tolist() == [1, 2]
    for _, group in lasting.groupby("quadrant"):
        one, other = (part.sort_values("x").x.tolist() for _, part in group.groupby("file"))
        assert one == other
    whole = draw_content(replace(settings, rows=1400, files=1), 1, 1, 0)
    data, _ = render(replace(settings, rows=1400), whole, np.random.default_rng(1))
    second = read_amplifier(tmp_path / "simulated_c01_001.fits", 1, instrument=settings.instrument).pixels_adu
    blinking = [hot for hot in whole.detector.hot_columns if hot.blinking is not None and hot.level_e > 50]
    seen = [(hot, hot.light_e(range(700, 1400), 300.0)) for hot in blinking]
    (hot, light) = next((hot, light) for hot, light in seen if 0 < light.mean() < hot.level_e)
    assert np.corrcoef(light, second[:, hot.column])[0, 1] > 0.5
    assert np.corrcoef(light, data[700:, hot.column])[0, 1] > 0.5


@pytest.mark.parametrize("name", ["hot_columns", "traps", "dropped_runs_per_hour"])
def test_negative_numbers_of_faults_are_refused(name):
    with pytest.raises(SceneError, match=rf"\[{name}\] = -1\.0: input should be greater than or equal to 0"):
        SceneSettings(**{name: -1.0})


def test_a_serial_trap_without_capacity_is_refused(tiny_profile, tmp_path):
    path = tmp_path / "none.toml"
    path.write_text(Path(tiny_profile).read_text() + SERIAL_TRAP.replace("756.0", "0.0"))
    with pytest.raises(ProfileError, match=r"\[serial_trap\] needs positive numbers, not SerialTrap\(capacity_e=0\.0"):
        load_profile(str(path))
