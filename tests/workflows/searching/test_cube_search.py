"""Image cubes through the commands: a flare in a Kepler file becomes a candidate, a training set and a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from another_program import Pulse
from another_program import write_frame as write_pulses
from astropy.io import fits
from astropy.time import Time, TimeDelta
from fake_cubes import KEPLER_CADENCE_D, KEPLER_LIVE_S, KEPLER_REFERENCE, OPENED, star_images, write_kepler, write_plain
from typer.testing import CliRunner

from shutterless.pipeline.examples.training import ExampleSettings
from shutterless.pipeline.results.candidates import CANDIDATE_TYPES
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.cli import app
from shutterless.workflows.frames.lightcurve import LightCurveError
from shutterless.workflows.searching.detect import read_rates
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.training import train
from shutterless.workflows.training.train import VALIDATION_GROUP, TrainError, draw_training_set

DATA = Path(__file__).parents[4] / "shared" / "data"
K2, TESSCUT = DATA / "k2_epic211983544_tpf.fits", DATA / "tesscut_84.29_-80.47_6x6.fits"
THRUSTER, OUTLIER = 1 << 20, 1 << 11  # bits 21 and 12 of QUALITY
N_FRAMES, FLARE, FLAGGED, UNTIMED = 500, 300, 100, 40
RISE = {0: 0.2, 1: 0.1, 2: 0.05}  # of the star's light
TEMPLATE_BANK = ("--model", "template-bank")


@pytest.fixture(scope="module", autouse=True)
def frequent_noise():
    """Take examples of noise from 4.2 sigma: in so small a stack the search for any above 4.9 takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "ExampleSettings", partial(ExampleSettings, threshold=4.2))
        yield


def write_star(path: Path) -> Path:
    """A star of 1.6e6 e- a cadence in 7 x 7 pixels flares by a fifth, and by all in a cadence that is flagged."""
    rates = star_images(N_FRAMES, 7, 7)
    for later, share in RISE.items():
        rates[FLARE + later] *= 1 + share
    rates[FLAGGED] *= 2
    rates += 5.0  # the sky
    quality = np.zeros(N_FRAMES, np.int32)
    quality[FLAGGED] = 1 << 2  # coarse pointing
    columns = {"FLUX_ERR": np.sqrt(rates / KEPLER_LIVE_S), "QUALITY": quality}
    return write_kepler(path, rates, columns=columns, untimed=(UNTIMED,))


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def search(files, out, *options):
    """Result of the command and its table."""
    result = call("search", *files, "--out", out, "--no-dask", "--quiet", *options)
    return result, pd.read_parquet(out / "candidates.parquet")


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    return write_star(tmp_path_factory.mktemp("target") / "k.fits")


@pytest.fixture(scope="module")
def searched(target, tmp_path_factory):
    """Folder, result and table of a search of the target by the template bank."""
    out = tmp_path_factory.mktemp("searched")
    return out, *search([target], out, *TEMPLATE_BANK)


@pytest.fixture(scope="module")
def store(target, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ingested") / "store"
    result = call("ingest", target, "--out", folder, "--no-dask", "--quiet")
    assert (result.exit_code, result.stdout) == (0, f"1 amplifiers in {folder}\n")
    return folder


@pytest.fixture(scope="module")
def model(store, tracking, tmp_path_factory) -> Path:
    """A perceptron of one epoch, trained on the first four fifths of the target."""
    folder = tmp_path_factory.mktemp("trained") / "mlp"
    settings = ("split=time", "n_examples=60", "epochs=1", "hide_above=7")
    options = [word for setting in settings for word in ("--set", f"train.{setting}")]
    result = call("train", store, "--model", "mlp", "--out", folder, "--tracking", tracking.uri, "--quiet", *options)
    assert result.exit_code == 0, result.output
    return folder


# --- search ---


def test_the_flare_is_the_only_candidate(searched):
    """There is no candidate in the bright flagged cadence, nor in the one without a time."""
    _, result, candidates = searched
    assert result.exit_code == 0
    assert list(candidates) == list(CANDIDATE_TYPES)
    assert len(candidates) == 1
    flare = candidates.iloc[0]
    assert (flare["row_peak"], flare["x"], flare["y"]) == (FLARE, pytest.approx(3, abs=0.2), 3)
    assert flare["row_start"] == FLARE
    assert flare["snr"] > 50
    assert flare["streak_id"] == 0
    assert (flare["model"], flare["candidate_id"]) == ("template-bank", flare["group_id"])
    # a fifth of the star's 1,000 e-/s, less the rise, which the best shape lacks
    assert flare["amplitude_e"] == pytest.approx(0.2 * 1000 * KEPLER_LIVE_S, rel=0.1)


def test_times_are_those_of_the_cadence_of_the_flare(searched):
    """The observer's clock, a quarter of a second before the middle of the cadence; the archive's BJD unchanged."""
    _, _, candidates = searched
    flare = candidates.iloc[0]
    elapsed = TimeDelta(FLARE * KEPLER_CADENCE_D * 86400, format="sec")
    middle = (Time(OPENED, format="isot", scale="utc").tai + elapsed).utc
    for name in ("time_read_utc", "time_event_min_utc", "time_event_max_utc"):
        stated = Time(flare[name], format="isot", scale="utc")
        assert (middle - stated).to_value("s") == pytest.approx(0.25, abs=0.01)
    light_d = (400 - 5e-5 * FLARE * KEPLER_CADENCE_D * 86400) / 86400
    assert flare["time_archive"] == pytest.approx(middle.tdb.jd - KEPLER_REFERENCE - 0.25 / 86400 + light_d, abs=1e-6)


def test_resume_gives_the_same_table(searched, target, tmp_path):
    out, _, candidates = searched
    shutil.copytree(out / "parts", tmp_path / "parts")
    result, again = search([target], tmp_path, *TEMPLATE_BANK, "--resume")
    assert result.exit_code == 0
    pd.testing.assert_frame_equal(again, candidates, check_exact=True)


def test_bundled_model_is_refused_with_both_grids(target, tmp_path):
    """It was trained on stacks one row high; the message names a way out."""
    result, candidates = search([target], tmp_path, "--model", "bundled-transformer")
    assert result.exit_code == 1
    assert candidates.empty
    assert "k_c00_q0 is a stack of 7 × 7 pixels (y, x), for which a grid is like TokenGrid(n_y=5," in result.stderr
    assert "but the model expects TokenGrid(n_y=1," in result.stderr
    assert "search with --model template-bank" in result.stderr


def test_bundled_forest_knows_no_context_of_images(target, tmp_path):
    result, candidates = search([target], tmp_path, "--model", "bundled")
    assert result.exit_code == 1
    assert candidates.empty
    assert "k_c00_q0 is a stack of 7 rows (y)" in result.stderr
    assert "search with --model template-bank" in result.stderr


def test_without_a_model_each_kind_of_file_gets_what_fits(target, tmp_path):
    """The bundled detector takes the frame, the bank the cube, whose candidates are those of the bank alone."""
    pulse = Pulse(2, 1400.3, 300.0, 6.0, 300.0)
    frame = write_pulses(tmp_path / "frame.fits", first_row=9000, n_rows=600, stars=[], pulses=[pulse], seed=5)
    result, candidates = search([frame, target], tmp_path / "out")
    assert result.exit_code == 0
    assert "no model was named: image cubes are searched with the template-bank, not bundled" in result.stderr
    names = candidates.groupby("file")["model"].first()
    assert names["frame.fits"].endswith("(bundled)")
    assert names["k.fits"] == "template-bank"
    _, alone = search([target], tmp_path / "alone", *TEMPLATE_BANK)
    cubes = candidates[candidates["file"] == "k.fits"].reset_index(drop=True)
    pd.testing.assert_frame_equal(cubes, alone)


def test_frames_and_cubes_in_one_search(target, tmp_path):
    """A pulse in a frame and a flare in a cube are candidates of one table, each with the columns of its kind."""
    pulse = Pulse(2, 1400.3, 300.0, 6.0, 300.0)
    frame = write_pulses(tmp_path / "frame.fits", first_row=9000, n_rows=600, stars=[], pulses=[pulse], seed=5)
    result, candidates = search([frame, target], tmp_path / "out", *TEMPLATE_BANK)
    assert result.exit_code == 0
    ours = candidates[candidates["snr"] > 10].set_index("file")
    assert sorted(ours.index) == ["frame.fits", "k.fits"]
    found = ours.loc["frame.fits"]
    assert (found["quadrant"], round(found["x"])) == (2, 1400)
    assert found["row_peak"] == pytest.approx(300, abs=2)
    assert ours.loc["k.fits", ["y", "row_peak"]].tolist() == [3, FLARE]
    assert ours["y"].isna().to_dict() == {"frame.fits": True, "k.fits": False}
    assert ours["quadrant"].isna().to_dict() == {"frame.fits": False, "k.fits": True}
    assert ours["time_archive"].isna().to_dict() == {"frame.fits": True, "k.fits": False}
    searched = pd.read_parquet(tmp_path / "out" / "amplifiers.parquet")
    assert searched.groupby("files").size().to_dict() == {"frame.fits": 4, "k.fits": 1}


def test_cubes_of_any_camera_are_searched_by_name(tmp_path):
    """Of a flash of 3,000 e- on a sky of 400, in image 30 of a plain cube in an extension."""
    y, x = np.indices((8, 9))
    light = np.exp(-4 * np.log(2) * ((y - 4) ** 2 + (x - 5) ** 2) / 1.6**2)
    mean = np.full((60, 8, 9), 400.0)
    mean[30] += 3000 * light / light.sum()
    # 1.6 px on the detector are 1.45 before its pixels widen them
    header = {"CADENCE": 0.5, "DATE-OBS": "2026-03-04T05:06:07", "SEEING": 1.45}
    images = np.random.default_rng(3).poisson(mean).astype(np.float32)
    path = write_plain(tmp_path / "c.fits", images, header=header, in_extension=True)
    result, candidates = search([path], tmp_path / "out", *TEMPLATE_BANK, "--instrument", "cube")
    assert result.exit_code == 0
    assert candidates[["y", "row_peak"]].to_numpy().tolist() == [[4, 30]]
    assert candidates["x"].tolist() == [pytest.approx(5, abs=0.2)]
    # 30 cadences of half a second after the first, in its middle
    assert candidates["time_read_utc"].tolist() == ["2026-03-04T05:06:22.250000"]


def test_report_of_the_search_is_written(searched):
    out, _, _ = searched
    result = call("report", out, "--quiet")
    assert (result.exit_code, result.stdout) == (0, f"report: {out / 'report.html'}\n")
    assert "k_c00_q0" in (out / "report.html").read_text(encoding="utf-8")


def test_light_curves_are_made_of_streaks_alone(target, tmp_path):
    result = call("lightcurve", target, "--out", tmp_path, "--no-dask", "--quiet")
    assert result.exit_code == 2
    assert "k_c00_q0 is a stack of images of 7 × 7 pixels (y, x), and light curves are made of streaks" in result.stderr
    with pytest.raises(LightCurveError, match=r"are made of streaks; lightkurve makes them of target pixel files"):
        CliRunner().invoke(
            app, ["lightcurve", str(target), "--out", str(tmp_path), "--resume", "--no-dask", "--debug"],
            catch_exceptions=False,
        )  # fmt: skip


# --- inject ---


def test_injected_events_are_found_again(target, tmp_path):
    options = ("--events", 3, "--kinds", "burst,flare", "--rho", "25,40", "--partial", 0, "--seed", 2)
    result = call("inject", target, "--out", tmp_path / "blind", "--no-dask", "--quiet", *options)
    assert result.exit_code == 0, result.output
    truth, stars = (pd.read_parquet(tmp_path / "blind" / f"{name}.parquet") for name in ("truth", "stars"))
    assert f"{len(truth)} events in 1 files" in result.stdout
    assert len(truth) >= 2
    assert len(stars) == 1
    assert truth["ccd"].isna().all()
    assert truth["y"].between(0, 6).all()
    _, candidates = search([tmp_path / "blind" / "k.fits"], tmp_path / "out", *TEMPLATE_BANK)
    short = truth[truth["row_stop"] - truth["row_start"] < 12]  # a quarter of the window of the trend
    assert len(short) >= 1
    for event in short.itertuples():
        near = candidates[(candidates["x"] - event.x).abs().lt(1) & (candidates["y"] - event.y).abs().lt(1)]
        assert (near["row_peak"] - event.row_peak).abs().min() <= 3


def test_inject_over_its_own_input_is_refused(target):
    result = call("inject", target, "--out", target.parent, "--no-dask", "--quiet")
    assert result.exit_code == 2
    assert "where its copy would replace it; choose another --out" in result.stderr


# --- training on one target ---


def test_one_target_is_one_field(store):
    settings = load_settings(None).train_for("mlp")
    with pytest.raises(
        TrainError, match=r"holds one field of stars; .* or validate on the last part of each with --set"
    ):
        draw_training_set(store, settings)


def test_split_in_time_trains_on_the_first_part_and_validates_on_the_last(store):
    changes = ("train.split=time", "train.n_examples=60", "train.hide_above=7")
    drawn = draw_training_set(store, load_settings(None, changes).train_for("mlp"))
    assert set(drawn.groups) == {0, VALIDATION_GROUP}
    assert asdict(drawn.grid) == {**dict(open_amplifier(store, "k_c00_q0").token_grid), "bins": (1, 4)}
    event = drawn.labels.is_event > 0
    # 30 events are injected, six of them in the last fifth; the template bank finds most
    assert 15 <= event.sum() <= 30
    assert 2 <= event[drawn.groups == VALIDATION_GROUP].sum() <= 6
    # the target's own flare was not injected; unless masked, it would be an example without an event
    assert drawn.strips.features[~event, 0].max() < 20
    shown = draw_training_set(store, load_settings(None, changes[:2]).train_for("mlp"))
    assert shown.strips.features[shown.labels.is_event == 0, 0].max() > 50


def test_model_of_one_target_is_kept_with_its_rates(model, store):
    summary = json.loads((model / "training.json").read_text())
    assert summary["validation_groups"] == [VALIDATION_GROUP]
    # the last fifth of 500 cadences of 49 pixels, against 3072 columns read 300 times a second for an hour
    hours = read_rates(model).live_hours
    assert hours == pytest.approx(100 * 49 / (3072 * 300 * 3600), rel=0.01)


def test_model_of_one_target_searches_it(model, target, tmp_path):
    result, candidates = search([target], tmp_path, "--model", model)
    assert result.exit_code == 0
    assert "false alarms per amplifier-hour is extrapolated" in result.stderr
    assert FLARE in candidates["row_peak"].tolist()
    assert candidates["probability"].between(0, 1).all()
    assert candidates["model"].str.startswith("shutterless-mlp (").all()


# --- files of the archives ---


@pytest.fixture(scope="module")
def k2(tmp_path_factory) -> tuple[pd.DataFrame, np.ndarray]:
    """Candidates of an M dwarf in 51 days of K2, the strongest first, and the file's flags."""
    if not K2.is_file():
        pytest.skip(f"{K2} is not there: real archive data are not part of the repository")
    result, candidates = search([K2], tmp_path_factory.mktemp("k2"), *TEMPLATE_BANK)
    assert result.exit_code == 0
    with fits.open(K2, memmap=False) as hdus:
        return candidates, hdus[1].data["QUALITY"].copy()


def test_the_flares_of_a_dwarf_come_first(k2):
    candidates, _ = k2
    assert candidates["time_archive"][:3].tolist() == pytest.approx([3435.40, 3468.97, 3446.82], abs=0.01)
    np.testing.assert_allclose(candidates[["x", "y"]][:3].astype(float), np.tile([4, 2], (3, 1)), atol=0.5)
    assert candidates["snr"][:3].tolist() == pytest.approx([350, 62, 50], rel=0.15)


def test_no_candidate_of_k2_peaks_in_a_masked_cadence_or_is_a_dip(k2):
    candidates, quality = k2
    assert 10 < len(candidates) < 60
    assert (quality[candidates["row_peak"]] & ~OUTLIER == 0).all()
    assert (candidates["snr"] > -7).all()


def test_thruster_firings_leave_nothing_on_the_star(k2):
    """Within a cadence of one of a hundred the star has one candidate above 7 sigma, a flare of 62.

    This is without what the pipeline flagged as impulsive outliers, one of which is beside a firing. Three pixels from
    it there is another, of 22 sigma at 3438.08, perhaps stray light in the optics.
    """
    candidates, quality = k2
    candidates = candidates[(candidates["snr"] > 7) & (quality[candidates["row_peak"]] == 0)]
    fired = np.flatnonzero(quality & THRUSTER)
    assert len(fired) > 90
    apart = np.abs(candidates["row_peak"].to_numpy()[:, None] - fired).min(axis=1)
    on_star = np.hypot(candidates["x"] - 4.1, candidates["y"].astype(float) - 2.2) < 1.5
    beside = candidates[(apart <= 1) & on_star]
    assert beside["time_archive"].tolist() == pytest.approx([3468.97], abs=0.01)


def test_fifty_images_of_a_saturated_star_hold_nothing(tmp_path):
    if not TESSCUT.is_file():
        pytest.skip(f"{TESSCUT} is not there: real archive data are not part of the repository")
    result, candidates = search([TESSCUT], tmp_path, *TEMPLATE_BANK)
    assert result.exit_code == 0
    assert candidates.empty
