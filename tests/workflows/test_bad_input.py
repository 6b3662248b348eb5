"""Bad files, values and folders from a user: the messages, what is still searched, and what is left on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.results.candidates import CANDIDATE_TYPES
from shutterless.workflows import cli
from shutterless.workflows.searching import search
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking import tracking

N_ROWS = 200


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch, tmp_path):
    """A tracking store for the test, and a false-alarm curve of the bank that does not depend on the shipped one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    installed = tmp_path / "installed"
    write_rates(installed / "template-bank", RateCurve(np.linspace(9, 5, 100), live_hours=10.0), "simulated")
    for module in (search, tracking):
        monkeypatch.setattr(module, "bundled_folder", lambda: installed)


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=False)


def find(files, out, *options):
    """Search with the template bank in this process."""
    return call("search", *files, "--out", out, "--model", "template-bank", "--no-dask", "--quiet", *options)


def failures_in(out):
    return pd.read_parquet(out / "failures.parquet")


def sky(seed=1, n_columns=3072, dtype=np.uint16):
    """Four quadrants of sky and read noise with one flash each, as sharp as the seeing and ten rows long (ADU)."""
    rng = np.random.default_rng(seed)
    x, row = np.arange(n_columns), np.arange(N_ROWS)[:, None]
    flash = 30.0 * np.exp(-0.5 * ((x - n_columns / 2) / 0.85) ** 2) * np.exp(-0.5 * ((row - 90) / 4.0) ** 2)
    return [(rng.normal(151.0, 3.3, flash.shape) + flash).round().astype(dtype) for _ in range(4)]


def bias(seed=2):
    rng = np.random.default_rng(seed)
    return [rng.normal(100.0, 1.7, (N_ROWS, 30)).round().astype(np.uint16) for _ in range(4)]


@pytest.fixture
def frame(write_frame):
    """Write a good frame, or one spoiled by the options of `write_frame`; by default beyond the ramp."""

    def write(name="good.fits", primary=None, **options):
        primary = {"SEQROW0": 5000, "SEQID": name.partition(".")[0], **(primary or {})}
        return write_frame(name, **{"data": sky(), "overscan": bias(), **options}, primary=primary)

    return write


def empty(frame):
    path = frame("bad.fits")
    path.write_bytes(b"")
    return path


def not_fits(frame):
    path = frame("bad.fits")
    path.write_text("observed by hand; see the notebook\n" * 200)
    return path


def cut_short(name):
    def spoil(frame):
        path = frame(name)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        return path

    return spoil


def narrow(frame):
    return frame("bad.fits", data=sky(n_columns=3000))


def without_row_rate(frame):
    return frame("bad.fits", primary={"ROWRATE": None})


def row_rate_is_a_word(frame):
    return frame("bad.fits", primary={"ROWRATE": "fast"})


def without_overscan(frame):
    return frame("bad.fits", overscan=[])


def other_ending(frame):
    return frame("good.fits").rename(frame("good.fits").with_name("bad.png"))


BAD_FILES = {
    "empty": (empty, ["bad.fits is empty (0 bytes)"]),
    "text": (not_fits, ["bad.fits is not a complete FITS file: "]),
    "truncated": (cut_short("bad.fits"), ["bad.fits is not a complete FITS file: ", "truncated"]),
    "truncated tiles": (cut_short("bad.fits.fz"), ["bad.fits.fz is not a complete FITS file: "]),
    "truncated gzip": (cut_short("bad.fits.gz"), ["bad.fits.gz is not a complete FITS file: "]),
    "columns": (narrow, ["has shape (200, 3000)", "expects (rows, 3072)", "use --instrument PROFILE.toml"]),
    "no row rate": (without_row_rate, ["ROWRATE is missing and has no default; give it with --set ROWRATE=VALUE"]),
    "row rate": (row_rate_is_a_word, ["ROWRATE = 'fast' is not a number; correct it with --set ROWRATE=VALUE"]),
    "no overscan": (without_overscan, ["quadrant 1 has no overscan HDU 5 (the file has 5 HDUs"]),
    "ending": (other_ending, ["bad.png does not end in one of .fits, .fits.gz, .fits.fz"]),
    "absent": (lambda frame: Path(frame("good.fits").with_name("bad.fits")), ["bad.fits does not exist"]),
}


@pytest.mark.parametrize("command", ["search", "ingest"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_one_line_with_its_name_and_the_reason(command, case, frame, tmp_path):
    spoil, words = BAD_FILES[case]
    path = spoil(frame)
    model = ["--model", "template-bank"] if command == "search" else []
    result = call(command, path, "--out", tmp_path / "out", "--no-dask", "--quiet", *model)
    assert result.exit_code == 1
    title, line = result.stderr.splitlines()
    assert title == "1 failed:"
    assert line.startswith(f"  {path}: ")
    assert [word for word in words if word not in line] == []
    (failure,) = failures_in(tmp_path / "out").to_dict("records")
    assert (failure["file"], failure["path"]) == (path.name, str(path))
    assert failure["reason"] in line


def test_search_in_which_every_file_is_bad_leaves_an_empty_table_with_every_column(frame, tmp_path):
    assert find([empty(frame)], tmp_path / "out").exit_code == 1
    candidates = pd.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert len(candidates) == 0
    assert set(CANDIDATE_TYPES) <= set(candidates.columns)


def test_good_file_among_bad_ones_is_searched_and_nothing_is_lost(frame, tmp_path):
    spoilers = {"a": empty, "b": not_fits, "c": narrow, "d": without_row_rate}
    for name, spoil in spoilers.items():
        spoil(frame).rename(tmp_path / f"{name}.fits")
    cut_short("e.fits.fz")(frame)
    frame("good.fits")
    files = sorted(tmp_path.glob("*.fits*"))
    out = tmp_path / "out"
    result = find(files, out)
    assert result.exit_code == 1
    assert "5 failed:" in result.stderr
    failures = failures_in(out)
    assert set(failures["file"]) == {"a.fits", "b.fits", "c.fits", "d.fits", "e.fits.fz"}
    assert failures["reason"].str.startswith("FrameError: ").all()
    assert [path.name for path in files if path.name not in result.stderr] == ["good.fits"]
    # a whole file stands for its four quadrants: each was either searched or is among the failures
    searched = pd.read_parquet(out / "amplifiers.parquet")
    assert set(searched["files"]) == {"good.fits"}
    n_failed = sum(4 if pd.isna(quadrant) else 1 for quadrant in failures["quadrant"])
    assert len(searched) + n_failed == 4 * len(files)
    found = pd.read_parquet(out / "candidates.parquet")
    assert set(found["quadrant"]) == {1, 2, 3, 4}
    assert set(found["file"]) == {"good.fits"}


def spoil_quadrant_2(how):
    """One quadrant spoiled, the other three good."""
    data, overscan = sky(dtype=np.float32), bias()
    if how == "nan":
        data[1][7, 11:13] = np.nan
    elif how == "constant":
        data[1][:] = 7
    elif how == "overscan nan":
        overscan = [image.astype(np.float32) for image in overscan]
        overscan[1][3, 4] = np.nan
    return {"data": data, "overscan": overscan}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", f"quadrant 2: 2 of {N_ROWS * 3072} pixels are NaN or infinite; the amplifier is skipped"),
        ("constant", "quadrant 2: all pixels equal 7.0; the amplifier is skipped"),
        ("overscan nan", f"overscan of quadrant 2: 1 of {N_ROWS * 30} pixels are NaN or infinite"),
    ],
)
def test_bad_amplifier_is_skipped_and_the_other_three_are_searched(how, words, frame, tmp_path):
    path = frame("part.fits", **spoil_quadrant_2(how))
    result = find([path], tmp_path / "out")
    assert result.exit_code == 1
    title, line = result.stderr.splitlines()
    assert title == "1 failed:"
    assert line.startswith(f"  {path}, quadrant 2: FrameError: ")
    assert words in line
    assert set(pd.read_parquet(tmp_path / "out" / "candidates.parquet")["quadrant"]) == {1, 3, 4}
    assert failures_in(tmp_path / "out")["quadrant"].tolist() == [2]


def test_three_overscans_of_four_cost_one_amplifier(frame, tmp_path):
    """HDU 8 is missing: quadrant 4 alone cannot be read."""
    result = find([frame("part.fits", overscan=bias()[:3])], tmp_path / "out")
    assert result.exit_code == 1
    assert "quadrant 4 has no overscan HDU 8 (the file has 8 HDUs, profile ztf expects it there)" in result.stderr
    assert set(pd.read_parquet(tmp_path / "out" / "candidates.parquet")["quadrant"]) == {1, 2, 3}


def test_row_rate_given_by_hand_is_used_and_stands_with_the_results(frame, tmp_path):
    path = without_row_rate(frame)
    result = find([path], tmp_path / "out", "--set", "ROWRATE=150")
    assert result.exit_code == 0
    candidates = pd.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert len(candidates) >= 4
    rows = candidates["row_stop"] - candidates["row_start"] + 1
    np.testing.assert_allclose(candidates["duration_s"], rows / 150)
    settings = json.loads(Table.read(tmp_path / "out" / "candidates.ecsv").meta["settings"])
    assert settings["supplied"] == {"ROWRATE": "150"}


def test_unknown_header_value_names_those_that_are_read(frame, tmp_path):
    result = find([frame()], tmp_path / "out", "--set", "ROWRATES=300")
    assert result.exit_code == 1
    assert "--set ROWRATES: profile ztf has no such keyword; it reads ['AMP_ID', " in result.stderr


@pytest.mark.parametrize("command", ["search", "ingest"])
def test_output_folder_that_cannot_be_written_is_found_before_any_work(command, frame, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    model = ["--model", "template-bank"] if command == "search" else []
    result = call(command, frame(), "--out", out, "--no-dask", *model)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: cannot write to output folder {out}: Not a directory; choose another with --out\n"
    )


@pytest.mark.parametrize("command", ["search", "ingest"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "zft",
            "error: no built-in instrument profile 'zft'; built in are ['cube', 'kepler', 'tess', 'ztf'], or give",
        ),
        ("absent.toml", "error: instrument profile absent.toml does not exist"),
    ],
)
def test_unknown_instrument_is_bad_usage_said_once_however_many_files(command, name, words, frame, tmp_path):
    files = [frame("one.fits"), frame("two.fits")]
    model = ["--model", "template-bank"] if command == "search" else []
    result = call(command, *files, "--out", tmp_path / "out", "--no-dask", "--instrument", name, *model)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(words)


def test_file_of_an_unknown_camera_says_which_keywords_it_lacks(frame, tmp_path):
    result = find([frame("other.fits", primary={"CCD_ID": None, "SHUTOPEN": None, "SEQID": None})], tmp_path / "out")
    assert result.exit_code == 1
    assert "no built-in instrument profile recognises this header (missing keywords: {" in result.stderr
    assert "'ztf': ['CCD_ID'" in result.stderr
    assert "name one with --instrument" in result.stderr


def test_misspelt_configuration_key_names_the_nearest(frame, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[search]\nfalse_alarm_per_hour = 3.0\n")
    result = find([frame()], tmp_path / "out", "--config", config)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {config}: [search] false_alarm_per_hour: unknown key; did you mean 'false_alarms_per_hour'?\n"
    )
    assert not (tmp_path / "out").exists()


def test_model_without_a_false_alarm_curve_is_refused_with_the_way_out(frame, make_model, tmp_path):
    model = make_model("fresh")
    result = call("search", frame(), "--out", tmp_path / "out", "--model", model, "--no-dask", "--quiet")
    assert result.exit_code == 2
    assert f"{model} holds no false-alarm curve" in result.stderr
    assert f"run `shutterless evaluate STORE --model {model}` first" in result.stderr


def test_vetoed_trigger_is_no_candidate_even_if_no_false_alarm_was_ever_counted(frame, tmp_path):
    """Then every threshold is -inf, and so is the score of a vetoed trigger: one pixel, sharper than the seeing."""
    write_rates(tmp_path / "installed" / "template-bank", RateCurve(np.empty(0), live_hours=1.0), "simulated")
    data = sky()
    data[0][50, 700] += 500
    assert find([frame(data=data)], tmp_path / "out").exit_code == 0
    candidates = pd.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert set(candidates["veto"]) == {""}
    assert set(candidates["quadrant"]) == {1, 2, 3, 4}
    assert ((candidates["x"] - 700).abs() > 5).all()


@pytest.fixture
def finished(frame, tmp_path):
    """A finished search of two files."""
    files = [frame("one.fits"), frame("two.fits", primary={"SEQROW0": 9000})]
    out = tmp_path / "out"
    assert find(files, out).exit_code == 0
    return files, out


def test_resumed_search_gives_the_same_table_to_the_bit_and_searches_nothing_again(finished):
    files, out = finished
    before = pd.read_parquet(out / "candidates.parquet")
    header = (out / "candidates.ecsv").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in out.glob("parts/*/triggers.parquet")}
    assert find(files, out, "--resume").exit_code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out / "candidates.parquet"), before, check_exact=True)
    assert (out / "candidates.ecsv").read_bytes() == header
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(times) == 8


def test_finished_search_is_not_overwritten_unasked(finished):
    files, out = finished
    result = find(files, out)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {out} already holds a finished search; go on with --resume or choose")


def test_broken_off_search_is_not_read_as_whole_and_resume_finishes_it(finished):
    """As after a crash: no table, one part without its description, one under a temporary name."""
    files, out = finished
    before = pd.read_parquet(out / "candidates.parquet")
    for name in ("candidates.parquet", "search.json"):
        (out / name).unlink()
    broken, *whole = sorted((out / "parts").iterdir())
    (broken / "segment.json").unlink()
    (broken / "triggers.parquet").write_bytes(b"half")
    shutil.copytree(whole[0], out / "parts" / f".{whole[0].name}.0123abcd.partial")
    times = {path: (path / "triggers.parquet").stat().st_mtime_ns for path in whole}
    assert find(files, out, "--resume").exit_code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out / "candidates.parquet"), before, check_exact=True)
    assert {path: (path / "triggers.parquet").stat().st_mtime_ns for path in whole} == times


def test_broken_off_store_is_not_read_as_whole_and_resume_finishes_it(frame, tmp_path):
    """As after a crash: no manifest, one entry without its description, one under a temporary name."""
    files, store = [frame("one.fits"), frame("two.fits", primary={"SEQROW0": 9000})], tmp_path / "store"
    assert call("ingest", *files, "--out", store, "--no-dask").exit_code == 0
    manifest = pd.read_parquet(store / "manifest.parquet")
    (store / "manifest.parquet").unlink()
    broken, *whole = (store / entry for entry in manifest["entry"])
    (broken / "entry.json").unlink()
    (broken / "residual.npy").write_bytes(b"half")
    shutil.copytree(whole[0], store / f".{whole[0].name}.0123abcd.partial")
    refused = call("evaluate", store, "--truth", "any.parquet", "--model", "template-bank")
    assert refused.exit_code == 2
    assert f"{store} is not a finished store: manifest.parquet is missing" in refused.stderr
    assert f"run `shutterless ingest --out {store} --resume`" in refused.stderr
    times = {path: (path / "residual.npy").stat().st_mtime_ns for path in whole}
    assert call("ingest", *files, "--out", store, "--no-dask", "--resume").exit_code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(store / "manifest.parquet"), manifest)
    assert {path: (path / "residual.npy").stat().st_mtime_ns for path in whole} == times


def test_file_that_was_bad_is_taken_up_by_resume_once_it_is_good(frame, tmp_path):
    out = tmp_path / "out"
    good, bad = frame("good.fits"), frame("late.fits", primary={"SEQROW0": 9000})
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    assert find([good, bad], out).exit_code == 1
    bad.write_bytes(whole)
    assert find([good, bad], out, "--resume").exit_code == 0
    assert len(failures_in(out)) == 0
    assert set(pd.read_parquet(out / "candidates.parquet")["file"]) == {"good.fits", "late.fits"}


def test_dry_run_lists_what_cannot_be_read_and_writes_nothing(frame, tmp_path):
    good, bad = frame("good.fits"), empty(frame)
    before = sorted(tmp_path.rglob("*"))
    result = find([good, bad], tmp_path / "out", "--dry-run")
    assert result.exit_code == 1
    assert "would read 1 files, 4 amplifiers" in result.stdout
    assert result.stderr == f"1 cannot be read:\n  {bad}: FrameError: {bad} is empty (0 bytes)\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_tile_that_cannot_be_unpacked_costs_its_amplifier_only(frame, tmp_path):
    """The file has its full length and right headers; a segment of compressed rows was overwritten."""
    path = frame("tile.fits.fz")
    with fits.open(path, disable_image_compression=True) as hdus:
        place = hdus[1].fileinfo()
    content = bytearray(path.read_bytes())
    middle = place["datLoc"] + place["datSpan"] // 2
    content[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(content)
    result = find([path], tmp_path / "out")
    assert result.exit_code == 1
    assert f"  {path}, quadrant 1: FrameError: " in result.stderr
    assert set(pd.read_parquet(tmp_path / "out" / "candidates.parquet")["quadrant"]) == {2, 3, 4}
