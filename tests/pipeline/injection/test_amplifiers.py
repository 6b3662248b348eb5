"""Injection: injected events are found again, have their own photon noise, and change only their own rows."""

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.calibration.residuals import noise_floor_e2
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.events import Event, central_rows, event_stamp
from shutterless.pipeline.events.kinds import EVENT_KINDS, EVENT_TABLE
from shutterless.pipeline.injection import amplifiers as injection
from shutterless.pipeline.injection.amplifiers import (
    INJECTED_COLUMNS,
    InjectionSettings,
    add_injection,
    draw_change,
    inject_events,
    scramble_rows,
    stamp_injection,
)

ORPHANS = InjectionSettings(kinds=(("burst", 1.0),), orphan_fraction=1.0)
TOPHAT = (("profile", "tophat"),)
BAR = Event("burst", x=30.2, row_peak=1000.0, scale_rows=300.0, amplitude_e=1.0, shape=TOPHAT)
SHADOW = Event("occultation", 30.2, 1000.0, 20.0, -1.0, shape=(("radius", 1.0), ("impact", 0.2)))


def of_rho(rho, **changes):
    """Settings with which every event has this optimal S/N."""
    return replace(ORPHANS, min_rho=rho, rho_scale=0.0, bright_fraction=0.0, **changes)


@pytest.fixture
def inject_this(monkeypatch):
    """Inject one given event instead of a drawn one: ``inject_this(amplifier, event, rho)``."""

    def run(amplifier, event, rho, seed=0):
        monkeypatch.setattr(injection, "draw_event", lambda *_, **__: event)
        return inject_events(amplifier, np.random.default_rng(seed), of_rho(rho), 1)

    return run


def electrons(amplifier, truth, event):
    """Added and expected electrons of the only injection into a noiseless amplifier, over its footprint (x, t)."""
    curve, first, profile = event_stamp(event, amplifier.n_rows, amplifier.n_columns, amplifier.psf_sigma_px)
    columns = slice(first, first + len(profile))
    added = (
        amplifier.residual[0, columns].astype(np.float64)
        * amplifier.sigma_rows(slice(None), columns, 0, amplifier.n_rows)[0]
    )
    return added, truth["amplitude_e"].iloc[0] * np.outer(profile, curve)


def test_injected_signal_to_noise_is_recovered(make_amplifier):
    """Bursts of rho = 12: each is found within three of twelve, and on average within 10 %."""
    amplifier = make_amplifier(n_columns=384, stars=(), seed=5)
    injected, truth = inject_events(amplifier, np.random.default_rng(2), of_rho(12.0), 30)
    assert len(truth) >= 20
    np.testing.assert_allclose(truth["rho"], 12, rtol=1e-3)
    triggers = find_triggers(injected)
    matched = match_truth(triggers, truth)
    found = triggers["snr"].groupby(matched[:]).max().drop(-1, errors="ignore")
    assert len(found) == len(truth)
    assert found.mean() == pytest.approx(12, rel=0.1)
    assert np.mean(np.abs(found - 12) < 3) >= 0.9


def test_truth_rows_hold_nine_tenths_of_the_light(make_amplifier, inject_this):
    """Central 90 % of the mean change, and without the first and the last row less than that."""
    for event in (BAR, SHADOW):
        amplifier, truth = inject_this(make_amplifier(noise=0), event, 30.0)
        _, expected = electrons(amplifier, truth, event)
        light = np.abs(expected.sum(axis=0))
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


def test_light_taken_away_is_the_event_on_average(make_amplifier, inject_this):
    """A few of 300 sky electrons are lost, as many as expected, each pixel within its own Poisson noise."""
    amplifier, truth = inject_this(make_amplifier(noise=0, stars=()), SHADOW, 40.0)
    added, expected = electrons(amplifier, truth, SHADOW)
    deep = expected < -20
    assert deep.sum() > 100
    lost = (added - expected)[deep]
    assert lost.mean() == pytest.approx(0, abs=4 * np.sqrt(np.mean(-expected[deep]) / deep.sum()))
    assert truth["rho"].iloc[0] == pytest.approx(np.sqrt(np.sum((expected / 20) ** 2)), rel=1e-4)
    row = truth.iloc[0]
    curve = SHADOW.light_curve(4096, amplifier.psf_sigma_px)
    assert (row["row_start"], row["row_stop"], row["row_peak"]) == central_rows(curve)
    assert (row["kind"], row["is_event"], row["x"], row["star_id"]) == ("occultation", True, 30.2, -1)


def test_a_dimmed_star_loses_its_noise(make_amplifier):
    """A star of 20,000 e- a row that fades by 80 %: the residual has the mean and variance of the faint star.

    No pixel of it holds the noise it had: at the middle of the star 8,600 + 100 e-² become 2,000 + 100.
    """
    flux = 20_000.0
    amplifier = make_amplifier(n_columns=48, n_rows=20_000, stars=((24.0, flux),), seed=4)
    amplifier = replace(amplifier, residual=amplifier.residual.astype(np.float32))
    event = Event("eclipse", 24.0, 100.0, 5.0, -0.8 * flux, star_id=0, shape=(("direction", "down"),))
    add_injection(amplifier, stamp_injection(amplifier, event, flux), np.random.default_rng(5))
    level = amplifier.baseline_e[0, :, 0].astype(np.float64)
    star = level - 300
    dim = amplifier.residual[0, :, 1000:].astype(np.float64) * amplifier.sigma_e[0, :, :1]
    error = 5 / np.sqrt(19_000)
    floor = noise_floor_e2(amplifier.readout)
    # the fixture's noise has no digitisation, but the restored noise has, 3 e-²
    expected = level - 0.8 * star + 100
    np.testing.assert_allclose(dim.mean(axis=1), -0.8 * star, atol=error * np.sqrt(level.max() + 100))
    np.testing.assert_allclose(dim.var(axis=1), expected, rtol=error * np.sqrt(2) + (floor - 100) / expected.min())
    before = amplifier.residual[0, :, :60].astype(np.float64)  # fringes begin eight Fresnel scales before
    assert before.var() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_mean_and_variance_of_thinned_pixels(share):
    """Poisson light of 400 and read noise of variance 100: the rest stays Poisson, and the read noise is kept."""
    rng = np.random.default_rng(6)
    found = rng.poisson(400, 200_000) + rng.normal(0, 10, 200_000)
    level = np.full(found.shape, 400.0)
    after = found + draw_change(rng, -share * level, level, found, 100.0)
    assert after.mean() == pytest.approx(400 * (1 - share), abs=5 * np.sqrt(500 / 200_000))
    assert after.var() == pytest.approx(400 * (1 - share) + 100, rel=0.02)


def test_added_light_is_poisson_and_no_more_than_all_can_be_taken():
    rng = np.random.default_rng(7)
    level, found = np.full(50_000, 300.0), rng.poisson(300, 50_000).astype(float)
    added = draw_change(rng, np.full(50_000, 7.0), level, found, 100.0)
    assert (added.mean(), added.var()) == (pytest.approx(7, rel=0.02), pytest.approx(7, rel=0.05))
    assert np.array_equal(draw_change(rng, -2 * level, level, found, 0.0), -found)
    masked = draw_change(rng, np.full(3, -5.0), np.full(3, 300.0), np.full(3, np.nan), 100.0)
    assert np.isfinite(masked).all()


def test_rho_follows_the_noise_along_the_event(make_amplifier):
    """A bar of 300 rows over noise that doubles half-way: Σ s²/σ² of each half by itself."""
    amplifier = make_amplifier(noise=0, stars=())
    doubled = np.where(np.arange(amplifier.sigma_e.shape[2]) >= 16, 2, 1)  # from row 1024 on
    amplifier = replace(amplifier, sigma_e=(amplifier.sigma_e * doubled).astype(np.float32))
    injection = stamp_injection(amplifier, replace(BAR, row_peak=1024.0, amplitude_e=30.0))
    sigma = amplifier.sigma_rows(injection.y, injection.columns, injection.rows_lit.start, injection.rows_lit.stop)
    assert injection.rho == pytest.approx(np.sqrt(np.sum((injection.signal_e() / sigma) ** 2)), rel=1e-6)
    quiet = stamp_injection(make_amplifier(noise=0, stars=()), replace(BAR, row_peak=1024.0, amplitude_e=30.0)).rho
    assert injection.rho == pytest.approx(quiet * np.sqrt((1 + 1 / 4) / 2), rel=0.03)


def test_masked_pixels_and_rows_beyond_the_file_add_nothing_to_rho(make_amplifier):
    """Half of a bar masked, or half of it before the first row: S/N over √2."""
    whole = stamp_injection(make_amplifier(noise=0, stars=()), BAR).unit_rho
    masked = make_amplifier(noise=0, stars=())
    masked.residual[0, :, 1001:] = np.nan
    assert stamp_injection(masked, BAR).unit_rho == pytest.approx(whole / np.sqrt(2), rel=0.01)
    cut = stamp_injection(make_amplifier(noise=0, stars=()), replace(BAR, row_peak=-0.5))
    assert cut.unit_rho == pytest.approx(whole / np.sqrt(2), rel=0.01)
    assert cut.rows[0] < 10
    masked.residual[:] = np.nan
    with pytest.raises(ValueError, match=r"all pixels of small_c00_q0 that a burst at x = 30.2 lights are masked"):
        stamp_injection(masked, BAR)


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_every_kind_can_be_injected(make_amplifier, kind):
    """On suitable stars, whole and cut: truth rows lie in the file, and rho is the requested one."""
    stars = tuple((12.0 + 30 * i, 300.0 * 3**i) for i in range(8))
    amplifier = make_amplifier(n_columns=256, n_rows=8192, stars=stars)
    for partial in (0.0, 1.0):
        _, truth = inject_events(
            amplifier, np.random.default_rng(3), of_rho(12.0, kinds=((kind, 1.0),), partial=partial), 4
        )
        assert len(truth) >= 1
        assert set(truth["kind"]) == {kind}
        assert truth["row_start"].between(0, 8191).all()
        assert truth["row_stop"].between(truth["row_start"], 8191).all()
        np.testing.assert_allclose(truth["rho"], 12, rtol=1e-6)


def test_partial_events_touch_an_edge(make_amplifier):
    settings = of_rho(12.0, kinds=(("burst", 1.0),), partial=1.0)
    _, truth = inject_events(make_amplifier(n_columns=1024, stars=()), np.random.default_rng(3), settings, 30)
    at_edge = (truth["row_start"] < 5) | (truth["row_stop"] > 4096 - 6)
    assert at_edge.mean() > 0.9
    assert {*(truth["row_start"] < 5)} == {True, False}
    # in the first file of a sequence nothing lies before the first row
    opened = make_amplifier(n_columns=1024, stars=(), first_row=0)
    _, truth = inject_events(opened, np.random.default_rng(3), settings, 30)
    assert (truth["row_stop"] > 4096 - 6).mean() > 0.9


def test_nothing_is_injected_where_the_shutter_was_closed(make_amplifier):
    """Opened at sequence row 0, closed at row 2000: a star at detector row 500 has light in rows 500 to 2500."""
    amplifier = make_amplifier(stars=((30.0, 20_000.0),), noise=0, first_row=0, close_row=2000)
    amplifier = replace(amplifier, streaks=amplifier.streaks.assign(y0=500.0))
    for kind, rho in (("flare", 300.0), ("burst", 100.0), ("occultation", 60.0), ("flickering", 200.0)):
        settings = of_rho(rho, kinds=((kind, 1.0),), orphan_fraction=0.0, partial=0.3)
        injected, truth = inject_events(amplifier, np.random.default_rng(1), settings, 6)
        changed = np.flatnonzero((injected.residual[0] != 0).any(axis=0))
        assert len(truth) >= 1
        assert 490 < changed.min() <= changed.max() < 2510


def test_uniform_rho_on_request(make_amplifier):
    settings = replace(ORPHANS, rho=(6.0, 8.0))
    _, truth = inject_events(
        make_amplifier(n_columns=1024, n_rows=1024, stars=()), np.random.default_rng(0), settings, 60
    )
    assert truth["rho"].between(6, 8).all()
    assert truth["rho"].mean() == pytest.approx(7.0, abs=0.3)


def test_no_star_no_flare(make_amplifier):
    settings = of_rho(8.0, kinds=(("flare", 1.0),))
    assert inject_events(make_amplifier(stars=()), np.random.default_rng(0), settings, 3)[1].empty


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
    _, truth = inject_events(amplifier, np.random.default_rng(4), settings, 40)
    assert tuple(truth.columns) == INJECTED_COLUMNS
    on_star = truth[truth["star_id"] >= 0]
    assert len(on_star) >= 5
    star = amplifier.streaks.set_index("streak_id").loc[on_star["star_id"]]
    np.testing.assert_array_equal(on_star["x"], star["x"])
    np.testing.assert_array_equal(on_star["star_mag"], star["mag"])
    relative = np.abs(on_star["amplitude_e"].to_numpy()) / star["flux_e_row"].to_numpy()
    for kind, share in zip(on_star["kind"], relative, strict=True):
        assert share <= EVENT_TABLE[kind].relative_amplitude[1]
    assert set(truth["kind"][truth["star_id"] < 0]) <= {"burst", "glint"}
    assert truth["star_mag"][truth["star_id"] < 0].isna().all()
    assert np.all((truth["amplitude_e"] < 0) == (truth["kind"] == "occultation"))


def test_stars_do_only_what_they_can(make_amplifier):
    """A star of 300 electrons a row cannot dim by an S/N of 500; on one of a million an S/N of 5 is no flare."""
    dimming = of_rho(500.0, kinds=(("occultation", 1.0),))
    _, truth = inject_events(make_amplifier(stars=((30.0, 300.0),)), np.random.default_rng(0), dimming, 3)
    assert truth.empty
    _, truth = inject_events(make_amplifier(stars=((30.0, 3e5),)), np.random.default_rng(0), dimming, 3)
    assert truth["kind"].tolist() == ["occultation"] * 3
    flaring = of_rho(5.0, kinds=(("flare", 1.0),))
    _, truth = inject_events(make_amplifier(stars=((30.0, 1e6),)), np.random.default_rng(0), flaring, 3)
    assert truth.empty
    _, truth = inject_events(make_amplifier(stars=((30.0, 300.0),)), np.random.default_rng(0), flaring, 3)
    assert truth["kind"].tolist() == ["flare"] * 3


def test_injections_keep_apart(make_amplifier):
    """No two within 24 columns have rows less than 128 apart; where there is no room, fewer are injected."""
    _, truth = inject_events(make_amplifier(), np.random.default_rng(0), ORPHANS, 60, n_cosmic_rays=20)
    assert 10 < len(truth) < 80
    for i, a in truth.iterrows():
        for _, b in truth.iloc[:i].iterrows():
            near = abs(a["x"] - b["x"]) < 23  # a cosmic ray's x is that of its brightest pixel
            assert not (near and a["row_start"] - 128 < b["row_stop"] and a["row_stop"] + 128 > b["row_start"])


def test_drawn_signal_to_noise_has_the_wanted_distribution(make_amplifier):
    """4.5 plus an exponential of 5; and log-uniform from 20 to 500 has its median at 100."""
    amplifier = make_amplifier(n_columns=1024, n_rows=1024, noise=0, stars=())
    short = replace(ORPHANS, bright_fraction=0.0)
    _, truth = inject_events(amplifier, np.random.default_rng(0), short, 100)
    assert truth["rho"].min() >= 4.4
    assert truth["rho"].mean() == pytest.approx(9.5, abs=3 * 5 / np.sqrt(len(truth)))
    _, truth = inject_events(amplifier, np.random.default_rng(0), replace(ORPHANS, bright_fraction=1.0), 100)
    assert truth["rho"].between(19.5, 510).all()
    assert np.median(np.log(truth["rho"])) == pytest.approx(np.log(100), abs=0.4)


def test_cosmic_rays_are_no_events_and_leave_their_charge(make_amplifier):
    amplifier = make_amplifier(noise=0, stars=())
    injected, truth = inject_events(
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
    (first, a), (second, b) = (
        inject_events(amplifier, np.random.default_rng(6), InjectionSettings(), 5, 2) for _ in range(2)
    )
    np.testing.assert_array_equal(first.residual, second.residual)
    assert a.equals(b)
    assert len(a) > 2
    other, c = inject_events(amplifier, np.random.default_rng(7), InjectionSettings(), 5, 2)
    assert not np.array_equal(other.residual, first.residual, equal_nan=True)
    assert not c.equals(a)


def test_file_too_short_for_any_event(make_amplifier):
    """A flare needs 248 rows: no whole one is injected into 100."""
    flares = replace(ORPHANS, kinds=(("flare", 1.0),), partial=0.0)
    injected, truth = inject_events(make_amplifier(n_rows=100), np.random.default_rng(0), flares, 3)
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
    order = scrambled.row_residual.astype(np.int64)  # gives the original number of each row
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
