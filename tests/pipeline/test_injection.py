"""Injection: what is put in is found again, with its own photon noise, in its rows and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline import injection
from shutterless.pipeline.events import RELATIVE_AMPLITUDES, Event, central_rows, event_stamp
from shutterless.pipeline.injection import INJECTED_COLUMNS, InjectionSettings, inject, scramble_rows
from shutterless.pipeline.matching import match_truth
from shutterless.pipeline.triggers import find_triggers

ORPHANS = InjectionSettings(kinds=(("burst", 1.0),), orphan_fraction=1.0)
TOPHAT = (("profile", "tophat"),)
BAR = Event("burst", x=30.2, row_peak=1000.0, scale_rows=300.0, amplitude_e=1.0, shape=TOPHAT)
SHADOW = Event("occultation", 30.2, 1000.0, 20.0, -1.0, shape=(("radius", 1.0), ("impact", 0.2)))


def of_rho(rho, **changes):
    """Settings under which every event has this optimum S/N."""
    return replace(ORPHANS, min_rho=rho, rho_scale=0.0, bright_fraction=0.0, **changes)


@pytest.fixture
def inject_this(monkeypatch):
    """Inject one given event instead of a drawn one: ``inject_this(amplifier, event, rho)``."""

    def run(amplifier, event, rho, seed=0):
        monkeypatch.setattr(injection, "draw_event", lambda *_, **__: event)
        return inject(amplifier, np.random.default_rng(seed), of_rho(rho), 1)

    return run


def electrons(amplifier, truth, event):
    """What the only injection of a noiseless amplifier added and what was to be expected, over its footprint (x, t)."""
    curve, first, profile = event_stamp(event, amplifier.n_rows, amplifier.n_columns, amplifier.psf_sigma_px)
    columns = slice(first, first + len(profile))
    added = amplifier.residual[0, columns].astype(np.float64) * amplifier.sigma_rows(columns, 0, amplifier.n_rows)
    return added, truth["amplitude_e"].iloc[0] * np.outer(profile, curve)


def test_injected_signal_to_noise_is_recovered(make_amplifier):
    """Bursts of rho = 12: each is found within three of twelve, and on average within 10 %."""
    amplifier = make_amplifier(n_columns=384, stars=(), seed=5)
    injected, truth = inject(amplifier, np.random.default_rng(2), of_rho(12.0), 30)
    assert len(truth) >= 20
    np.testing.assert_allclose(truth["rho"], 12, rtol=1e-3)
    triggers = find_triggers(injected)
    matched = match_truth(triggers, truth)
    found = triggers["snr"].groupby(matched[:]).max().drop(-1, errors="ignore")
    assert len(found) == len(truth)
    assert found.mean() == pytest.approx(12, rel=0.1)
    assert np.mean(np.abs(found - 12) < 3) >= 0.9


def test_truth_rows_hold_nine_tenths_of_the_light(make_amplifier, inject_this):
    """Central 90 % of the electrons, and without the first and the last row less than that."""
    for event in (BAR, SHADOW):
        amplifier, truth = inject_this(make_amplifier(noise=0), event, 3000.0)
        added, _ = electrons(amplifier, truth, event)
        light = np.abs(added.sum(axis=0))
        start, stop = truth["row_start"].iloc[0], truth["row_stop"].iloc[0]
        assert light[start : stop + 1].sum() > 0.895 * light.sum()
        assert light[start + 1 : stop].sum() < 0.905 * light.sum()


def test_bright_light_brings_its_poisson_noise(make_amplifier, inject_this):
    """In the bright pixels of a bar of 300 rows the squared deviation over the expected number is 1 on average."""
    amplifier, truth = inject_this(make_amplifier(noise=0), BAR, 1500.0)
    added, expected = electrons(amplifier, truth, BAR)
    bright = expected > 100
    assert bright.sum() > 800
    assert np.mean((added - expected)[bright] ** 2 / expected[bright]) == pytest.approx(1, abs=0.15)
    assert added.sum() == pytest.approx(expected.sum(), rel=5 / np.sqrt(expected.sum()) + 1e-3)


def test_light_taken_away_is_exactly_the_event(make_amplifier, inject_this):
    amplifier, truth = inject_this(make_amplifier(noise=0, stars=()), SHADOW, 40.0)
    added, expected = electrons(amplifier, truth, SHADOW)
    np.testing.assert_allclose(added, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
    assert expected.min() == pytest.approx(added.min(), rel=2e-3)
    assert truth["rho"].iloc[0] == pytest.approx(np.sqrt(np.sum((expected / 20) ** 2)), rel=1e-4)
    row = truth.iloc[0]
    curve = SHADOW.light_curve(4096, amplifier.psf_sigma_px)
    assert (row["row_start"], row["row_stop"], row["row_peak"]) == central_rows(curve)
    assert (row["kind"], row["is_event"], row["x"], row["star_id"]) == ("occultation", True, 30.2, -1)


def test_everything_else_stays_as_it_was(make_amplifier, inject_this):
    amplifier = make_amplifier()
    before = amplifier.residual.copy()
    injected, _ = inject_this(amplifier, BAR, 50.0)
    np.testing.assert_array_equal(amplifier.residual, before)
    changed = np.argwhere(injected.residual[0] != before[0])
    assert changed.size
    # x = 30.2 and 6 × 0.84 + 1 columns to either side; 300 rows about 1000 and their smearing
    assert changed[:, 0].min() >= 25
    assert changed[:, 0].max() <= 36
    assert changed[:, 1].min() >= 840
    assert changed[:, 1].max() <= 1160
    assert injected.streaks is amplifier.streaks
    assert injected.baseline_e is amplifier.baseline_e


def test_masked_pixels_stay_masked(make_amplifier, inject_this):
    amplifier = make_amplifier(noise=0)
    amplifier.residual[0, 30, 990:1010] = np.nan
    injected, _ = inject_this(amplifier, BAR, 50.0)
    assert np.isnan(injected.residual[0, 30, 990:1010]).all()
    assert np.isnan(injected.residual).sum() == 20


def test_events_stand_on_their_stars(make_amplifier):
    """Every event but orphans and glints has the column, number and magnitude of a streak, and a share of its flux."""
    amplifier = make_amplifier(n_columns=256, stars=tuple((12.0 + 40 * i, 500.0 + 300 * i) for i in range(6)))
    settings = InjectionSettings(max_rho=50.0)
    _, truth = inject(amplifier, np.random.default_rng(4), settings, 40)
    assert tuple(truth.columns) == INJECTED_COLUMNS
    on_star = truth[truth["star_id"] >= 0]
    assert len(on_star) >= 5
    star = amplifier.streaks.set_index("streak_id").loc[on_star["star_id"]]
    np.testing.assert_array_equal(on_star["x"], star["x"])
    np.testing.assert_array_equal(on_star["star_mag"], star["mag"])
    relative = np.abs(on_star["amplitude_e"].to_numpy()) / star["flux_e_row"].to_numpy()
    for kind, share in zip(on_star["kind"], relative, strict=True):
        assert share <= RELATIVE_AMPLITUDES[kind][1]
    assert set(truth["kind"][truth["star_id"] < 0]) <= {"burst", "glint"}
    assert truth["star_mag"][truth["star_id"] < 0].isna().all()
    assert np.all((truth["amplitude_e"] < 0) == (truth["kind"] == "occultation"))


def test_stars_do_only_what_they_can(make_amplifier):
    """A star of 300 electrons a row cannot dim by an S/N of 500; on one of a million an S/N of 5 is no flare."""
    dimming = of_rho(500.0, kinds=(("occultation", 1.0),))
    _, truth = inject(make_amplifier(stars=((30.0, 300.0),)), np.random.default_rng(0), dimming, 3)
    assert truth.empty
    flaring = of_rho(5.0, kinds=(("flare", 1.0),))
    _, truth = inject(make_amplifier(stars=((30.0, 1e6),)), np.random.default_rng(0), flaring, 3)
    assert truth.empty


def test_injections_keep_apart(make_amplifier):
    """No two within 24 columns have rows less than 128 apart; where there is no room, fewer are injected."""
    _, truth = inject(make_amplifier(), np.random.default_rng(0), ORPHANS, 60, n_cosmic_rays=20)
    assert 10 < len(truth) < 80
    for i, a in truth.iterrows():
        for _, b in truth.iloc[:i].iterrows():
            near = abs(a["x"] - b["x"]) < 23  # a cosmic ray's x is that of its brightest pixel
            assert not (near and a["row_start"] - 128 < b["row_stop"] and a["row_stop"] + 128 > b["row_start"])


def test_drawn_signal_to_noise_has_the_wanted_distribution(make_amplifier):
    """4.5 plus an exponential of 5; and log-uniform from 20 to 500 has its median at 100."""
    amplifier = make_amplifier(n_columns=1024, n_rows=1024, noise=0, stars=())
    short = replace(ORPHANS, bright_fraction=0.0)
    _, truth = inject(amplifier, np.random.default_rng(0), short, 100)
    assert truth["rho"].min() >= 4.4
    assert truth["rho"].mean() == pytest.approx(9.5, abs=3 * 5 / np.sqrt(len(truth)))
    _, truth = inject(amplifier, np.random.default_rng(0), replace(ORPHANS, bright_fraction=1.0), 100)
    assert truth["rho"].between(19.5, 510).all()
    assert np.median(np.log(truth["rho"])) == pytest.approx(np.log(100), abs=0.4)


def test_cosmic_rays_are_no_events_and_leave_their_charge(make_amplifier):
    amplifier = make_amplifier(noise=0, stars=())
    injected, truth = inject(
        amplifier, np.random.default_rng(8), replace(ORPHANS, faintest_ray=1.0), 0, n_cosmic_rays=6
    )
    assert set(truth["kind"]) == {"cosmic_ray"}
    assert not truth["is_event"].any()
    charge = injected.residual[0].astype(np.float64) * 20
    assert charge.sum() == pytest.approx(truth["amplitude_e"].sum(), rel=2e-3)
    for _, ray in truth.iterrows():
        rows = charge[:, ray["row_start"] : ray["row_stop"] + 1]
        assert rows.sum() > 0.99 * ray["amplitude_e"]
        brightest = charge[int(ray["x"]), ray["row_peak"]]
        assert brightest == rows.max()


def test_same_seed_same_injections(make_amplifier):
    amplifier = make_amplifier()
    (first, a), (second, b) = (inject(amplifier, np.random.default_rng(6), InjectionSettings(), 5, 2) for _ in range(2))
    np.testing.assert_array_equal(first.residual, second.residual)
    assert a.equals(b)
    assert len(a) > 2


def test_file_too_short_for_any_event(make_amplifier):
    """A flare needs 248 rows: nothing is injected into 100."""
    flares = replace(ORPHANS, kinds=(("flare", 1.0),))
    injected, truth = inject(make_amplifier(n_rows=100), np.random.default_rng(0), flares, 3)
    assert truth.empty
    assert tuple(truth.columns) == INJECTED_COLUMNS
    np.testing.assert_array_equal(injected.residual, make_amplifier(n_rows=100).residual)


def test_scrambled_rows_keep_what_rows_share(make_amplifier):
    amplifier = make_amplifier()
    amplifier.residual[0, 10, 100] = 40  # a cosmic ray
    amplifier.residual[0, 11, 300] = -7
    amplifier.residual[0, 12, 400] = np.nan
    amplifier.row_residual[:] = np.arange(4096)
    scrambled = scramble_rows(amplifier, np.random.default_rng(0))
    assert np.isnan(scrambled.residual).sum() == 3
    assert np.isnan(amplifier.residual).sum() == 1
    order = scrambled.row_residual.astype(np.int64)  # says where each row came from
    assert sorted(order) == list(range(4096))
    assert np.mean(np.abs(np.diff(order)) <= 2) < 0.01
    expected = amplifier.residual[:, :, order]
    live = np.isfinite(scrambled.residual)
    np.testing.assert_array_equal(scrambled.residual[live], expected[live])


def test_scrambled_noise_has_the_mean_and_variance_it_had(make_amplifier):
    amplifier = make_amplifier(seed=9)
    amplifier.residual[0, 30, 1000:1300] += np.float16(1.5)  # gone when its rows are scattered
    scrambled = scramble_rows(amplifier, np.random.default_rng(0))
    before, after = amplifier.residual[0].astype(np.float64), scrambled.residual[0].astype(np.float64)
    np.testing.assert_allclose(np.nanmean(after, axis=1), before.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(np.nanvar(after, axis=1), before.var(axis=1), atol=0.05)
    assert find_triggers(amplifier)["snr"].max() > 15
    assert find_triggers(scrambled)["snr"].max() < 7
