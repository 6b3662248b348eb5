"""Training examples: true labels, the same examples for the same seed, and a lossless round trip to disk."""

from dataclasses import fields, replace

import numpy as np
import pytest

from shutterless.pipeline.detection import vetoes
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.events import Event
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.examples.training import (
    ExampleSettings,
    TrainingSet,
    concatenate_labels,
    concatenate_training_sets,
    draw_examples,
    hide_events,
)
from shutterless.pipeline.injection import amplifiers as injection
from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch, TokenGrid, unpatchify

GRID = TokenGrid(n_columns=9, n_rows=64, patch_rows=8, bins=(1, 4, 16))
FEW = ExampleSettings(n_events=16, n_cosmic_rays=8, n_noise=12, threshold=4.3)
NOTHING_ADDED = ExampleSettings(n_events=0, n_cosmic_rays=0, n_noise=0)
UNKNOWN = ("onset", "log2_duration", "rho")


def burst_settings(rho):
    drawn = InjectionSettings(kinds=(("burst", 1.0),), min_rho=rho, rho_scale=0.0, bright_fraction=0.0)
    return ExampleSettings(n_events=12, n_cosmic_rays=0, n_noise=0, injection=drawn)


def counts(examples):
    return {KINDS[kind]: int(n) for kind, n in zip(*np.unique(examples.labels.kind, return_counts=True), strict=True)}


@pytest.fixture(scope="module")
def examples(make_amplifier):
    return draw_examples(make_amplifier(n_columns=128), GRID, np.random.default_rng(1), FEW, group=7)


def test_every_array_is_as_long_as_the_others(examples):
    n = len(examples)
    assert n > 25
    for part in (examples.strips, examples.labels):
        assert {len(array) for array in vars(part).values() if array is not None} == {n}
    assert examples.groups.tolist() == [7] * n
    assert examples.grid == GRID


def test_kinds_are_those_asked_for(examples):
    found = counts(examples)
    assert set(found) <= {"noise", "flare", "burst", "occultation", "glint", "cosmic_ray"}
    assert found["noise"] >= 12
    assert found["cosmic_ray"] >= 2
    assert examples.labels.is_event.sum() >= 6
    is_event = np.isin(examples.labels.kind, [KINDS.index(k) for k in ("flare", "burst", "occultation", "glint")])
    np.testing.assert_array_equal(examples.labels.is_event, is_event)


def test_only_events_have_an_onset(examples):
    event = examples.labels.is_event > 0
    for name in UNKNOWN:
        values = getattr(examples.labels, name)
        assert np.isnan(values[~event]).all()
        assert np.isfinite(values[event]).all()
    assert np.all((examples.labels.onset[event] >= 0) & (examples.labels.onset[event] <= 1))
    assert np.all(examples.labels.log2_duration[event] >= 0)
    assert np.all(examples.labels.rho[event] > 4)


@pytest.mark.parametrize(("kind", "index"), [("flare", 1), ("burst", 2), ("occultation", 3), ("glint", 4)])
def test_label_of_each_kind_of_event(make_amplifier, kind, index):
    drawn = InjectionSettings(kinds=((kind, 1.0),), min_rho=15.0, rho_scale=0.0, bright_fraction=0.0)
    settings = ExampleSettings(n_events=3, n_cosmic_rays=0, n_noise=0, injection=drawn)
    stars = ((20.25, 1000.0), (44.0, 4000.0))  # a faint star cannot dim by fifteen sigma
    found = draw_examples(make_amplifier(noise=0, stars=stars), GRID, np.random.default_rng(3), settings)
    assert len(found)
    assert found.labels.kind.tolist() == [index] * len(found)
    assert np.all(found.labels.is_event == 1)
    # the sign of stage 1 is that of the event
    assert np.all(found.strips.features[:, 1] == (-1 if kind == "occultation" else 1))
    np.testing.assert_allclose(found.labels.rho, 15, rtol=0.1)


def test_spike_in_the_frame_is_a_cosmic_ray_and_shared_rows_are_pickup(make_amplifier):
    spiked, shared = make_amplifier(noise=0, stars=()), make_amplifier(noise=0, stars=())
    spiked.residual[0, 30, 1000] = 30
    shared.residual[0, :, 1000:1100] = 0.5
    rng = np.random.default_rng(0)
    assert counts(draw_examples(spiked, GRID, rng, NOTHING_ADDED)) == {"cosmic_ray": 1}
    assert set(counts(draw_examples(shared, GRID, rng, NOTHING_ADDED))) == {"pickup"}


def test_a_veto_that_is_added_labels_its_examples(make_amplifier, monkeypatch):
    """A veto that is added to the table gives its kind, here a trap, to the examples that it rejects."""
    amplifier = make_amplifier(noise=0, stars=())
    amplifier.residual[0, 30, 1000] = 30
    made_up = vetoes.Veto("spike", "one pixel has it", "one pixel", "a trap", "trap", lambda t, _: t["sharpness"] > 1)
    monkeypatch.setattr(vetoes, "VETOES", (made_up, *vetoes.VETOES))
    assert find_triggers(amplifier)["veto"].tolist() == ["spike"]
    assert counts(draw_examples(amplifier, GRID, np.random.default_rng(0), NOTHING_ADDED)) == {"trap": 1}


def test_frame_as_it_is_holds_no_event(make_amplifier):
    """A bump of S/N 20 that was not injected becomes noise if the frames are stated to be free of events."""
    amplifier = make_amplifier(noise=0, stars=())
    amplifier.residual[0, 30, 1000:1100] = 1
    amplifier.residual[0, [29, 31], 1000:1100] = 0.5
    found = draw_examples(amplifier, GRID, np.random.default_rng(0), NOTHING_ADDED)
    assert counts(found) == {"noise": 1}
    assert np.isnan(found.labels.onset).all()


def test_hidden_events_are_masked_and_nothing_else(make_amplifier):
    """A burst of 100 rows at (30, 1000), and half its length before and twice its length after it, in 3 px around it.

    A spike of one pixel is no event to the classical detector, and what is too faint may be noise.
    """
    amplifier = make_amplifier(noise=0, stars=())
    for x, share in ((29, 0.5), (30, 1.0), (31, 0.5)):
        amplifier.residual[0, x, 1000:1100] = share  # as a whole 12 sigma
        amplifier.residual[0, x + 20, 2500:2600] = 0.55 * share
    amplifier.residual[0, 10, 3000] = 30
    before = amplifier.residual.copy()
    hidden = hide_events(amplifier, 8.0)
    x, rows = np.nonzero(np.isnan(hidden.residual[0]))
    assert (x.min(), x.max()) == (27, 33)
    assert rows.min() == pytest.approx(950, abs=15)
    assert rows.max() == pytest.approx(1300, abs=30)
    assert len(rows) == 7 * (rows.max() - rows.min() + 1)
    assert hidden.live_pixel_rows == amplifier.residual.size - len(rows)
    np.testing.assert_array_equal(amplifier.residual, before)
    np.testing.assert_array_equal(hidden.residual[~np.isnan(hidden.residual)], before[~np.isnan(hidden.residual)])
    assert find_triggers(hidden, 8.0)["veto"].tolist() == ["sharp"]
    assert np.isnan(hide_events(amplifier, 5.0).residual[0, 50, 2500:2600]).all()
    assert not np.isnan(hide_events(amplifier, 100.0).residual).any()


def test_as_much_scrambled_noise_as_asked_for(make_amplifier):
    amplifier = make_amplifier(stars=())
    settings = ExampleSettings(n_events=0, n_cosmic_rays=0, n_noise=25, threshold=4.2)
    as_it_is = draw_examples(amplifier, GRID, np.random.default_rng(0), replace(settings, n_noise=0))
    found = draw_examples(amplifier, GRID, np.random.default_rng(0), settings)
    assert len(found) == len(as_it_is) + 25


def test_onset_and_duration_are_where_the_light_is(make_amplifier):
    """Noiseless bursts of rho = 300: the label's rows are those between 5 % and 95 % of the light in the strip."""
    amplifier = make_amplifier(n_columns=128, noise=0, stars=())
    found = draw_examples(amplifier, GRID, np.random.default_rng(2), burst_settings(300.0))
    assert len(found) >= 4
    light = unpatchify(found.strips.patches, GRID)[:, 0].sum(axis=1)
    share = np.cumsum(light, axis=1) / light.sum(axis=1, keepdims=True)
    first, last = (share >= 0.05).argmax(axis=1), (share >= 0.95).argmax(axis=1)
    np.testing.assert_allclose(found.labels.onset * GRID.n_rows, first, atol=1.5)
    bins = 2 ** found.strips.features[:, 3]
    length = last - first + 1
    np.testing.assert_allclose(2**found.labels.log2_duration / bins, length, atol=2)
    assert np.median((2**found.labels.log2_duration - length)[bins == 1]) == pytest.approx(0, abs=1e-3)


def test_one_example_of_an_injection_at_its_strongest_trigger(make_amplifier):
    """Flares of rho = 200 have tails that trigger again; the one example kept has nearly all of that S/N."""
    amplifier = make_amplifier(n_rows=3072, stars=((20.0, 1000.0), (44.0, 2000.0)))  # room for one injection at a time
    flares = InjectionSettings(kinds=(("flare", 1.0),), min_rho=200.0, rho_scale=0.0, bright_fraction=0.0)
    settings = replace(NOTHING_ADDED, n_events=8, injection=flares)
    found = draw_examples(amplifier, GRID, np.random.default_rng(2), settings)
    event = found.labels.is_event > 0
    assert 4 <= event.sum() <= 8
    assert np.all(found.strips.features[event, 0] > 150)


def test_injections_in_the_same_rows_are_no_sign_of_pickup(make_amplifier, monkeypatch):
    """Bursts at many columns in row 1000, two per pass: none counts the other, all count the original triggers."""

    def burst(rng, kind, *, x, **_):
        x = x if abs(x - 128) > 9 else 64.0  # what lies within 8 px counts as the same cause
        return Event("burst", x, 1000.0, 6.0, 1.0, shape=(("profile", "tophat"),))

    monkeypatch.setattr(injection, "draw_event", burst)
    amplifier = make_amplifier(n_columns=256, n_rows=2048, noise=0, stars=())
    for n_before in (0, 1):
        amplifier.residual[0, 128, 998:1003] = 9 * n_before
        found = draw_examples(amplifier, GRID, np.random.default_rng(0), burst_settings(20.0))
        event = (found.labels.is_event > 0) & (found.labels.rho > 0)
        away = np.abs(unpatchify(found.strips.patches, GRID)[:, 0, :, 32]).max(axis=1) < 8.5
        assert event.sum() >= 4
        assert np.all(found.strips.features[event & away, STAGE1_FEATURES.index("n_same_row")] == n_before)


def test_same_seed_same_examples(make_amplifier, examples):
    again = draw_examples(make_amplifier(n_columns=128), GRID, np.random.default_rng(1), FEW, group=7)
    assert_same(again, examples)
    other = draw_examples(make_amplifier(n_columns=128), GRID, np.random.default_rng(2), FEW, group=7)
    assert not np.array_equal(other.labels.rho, examples.labels.rho, equal_nan=True)


def assert_same(a, b, skip=()):
    for part in ("strips", "labels"):
        for f in fields(getattr(a, part)):
            if f.name not in skip:
                np.testing.assert_array_equal(getattr(getattr(a, part), f.name), getattr(getattr(b, part), f.name))
    np.testing.assert_array_equal(a.groups, b.groups)
    assert a.grid == b.grid


def test_saved_examples_come_back(examples, tmp_path):
    """To the bit, but for the patches' float16, which holds eleven bits."""
    examples.save(tmp_path / "examples.npz")
    back = TrainingSet.load(tmp_path / "examples.npz")
    assert_same(back, examples, skip=("patches",))
    np.testing.assert_allclose(back.strips.patches, examples.strips.patches, rtol=2**-11, atol=1e-6)
    for part in ("strips", "labels"):
        for name, array in vars(getattr(examples, part)).items():
            assert (array is None and name == "weight") or vars(getattr(back, part))[name].dtype == array.dtype
    assert (len(back), back.groups.dtype) == (len(examples), np.int64)
    assert back.numbers is None


def test_context_of_the_triggers_is_stored_with_them(examples, tmp_path):
    numbers = np.arange(2.0 * len(examples), dtype=np.float32).reshape(-1, 2)
    numbers[0, 1] = np.nan
    replace(examples, numbers=numbers).save(tmp_path / "set.npz")
    np.testing.assert_array_equal(TrainingSet.load(tmp_path / "set.npz").numbers, numbers)


def test_parts_are_joined_in_order(examples):
    parts = [examples[:5], examples[5:5], examples[5:]]
    assert_same(concatenate_training_sets(parts), examples)


def test_nothing_to_join(examples):
    message = "no training examples were drawn: the store is empty, or no file is long enough"
    with pytest.raises(ValueError, match=message):
        concatenate_training_sets([])
    with pytest.raises(ValueError, match=message):
        concatenate_training_sets([examples[:0]])


def test_different_grids_are_not_joined(examples):
    other = replace(examples, grid=replace(GRID, bins=(1,)))
    with pytest.raises(ValueError, match=r"different grids cannot be joined: .*bins=\(1, 4, 16\).*bins=\(1,\)"):
        concatenate_training_sets([examples, other])


def test_file_too_short_for_an_event_gives_what_it_can(make_amplifier):
    """60 rows: no flare fits whole; nothing breaks."""
    drawn = InjectionSettings(kinds=(("flare", 1.0),), partial=0.0)
    settings = ExampleSettings(n_events=4, n_cosmic_rays=0, n_noise=3, threshold=4.0, injection=drawn)
    found = draw_examples(make_amplifier(n_rows=60), GRID, np.random.default_rng(0), settings)
    assert isinstance(found.strips, StripBatch)
    assert set(counts(found)) <= {"noise", "cosmic_ray", "pickup"}


def test_labels_without_weights_count_one_beside_others(examples, tmp_path):
    weighted = replace(examples.labels[:2], weight=np.array([0.5, 0.0], np.float32))
    joined = concatenate_labels([examples.labels[:3], weighted])
    assert joined.weight.tolist() == [1, 1, 1, 0.5, 0]
    assert joined[1:4].weight.tolist() == [1, 1, 0.5]
    assert concatenate_labels([examples.labels[:3], examples.labels[:2]]).weight is None
    with_weights = replace(examples[:5], labels=joined)
    with_weights.save(tmp_path / "weighted.npz")
    assert_same(TrainingSet.load(tmp_path / "weighted.npz"), with_weights, skip=("patches",))
