"""Light curves of simulated frames: through the command, in every format, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.timeseries import TimeSeries
from typer.testing import CliRunner

from shutterless.pipeline.lightcurves import LightCurveError, fit_light_curves
from shutterless.pipeline.store import open_amplifier, read_manifest
from shutterless.workflows import lightcurve
from shutterless.workflows.cli import app
from shutterless.workflows.cluster import SerialExecutor
from shutterless.workflows.lightcurve import write_light_curves

COLUMNS = ["time_s", "time_read_utc", "time_event_min_utc", "time_event_max_utc", "flux_e_row", "flux_error_e_row"]
COLUMNS += ["flux_e_s", "mag", "row", "streak_id", "x"]


@pytest.fixture(scope="module")
def frame(training_store):
    """Two amplifiers of 4,000 rows with a sky ramp of 50 rows."""
    return sorted((training_store.parent / "frames").glob("*.fits"))[0]


@pytest.fixture(scope="module")
def written(frame, tiny_camera, tmp_path_factory):
    out = tmp_path_factory.mktemp("curves")
    return out, call(frame, tiny_camera, out, "--bin-rows", 4, "--format", "parquet", "--format", "csv")


def call(frame, camera, out, *options):
    arguments = ["lightcurve", frame, "--instrument", camera, "--out", out, "--no-dask", "--quiet", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(frame, camera, out, **options):
    return write_light_curves([frame], out, instrument=camera, executor=SerialExecutor(), **options)


def first_star(out):
    """Entry, column and the other facts of the first streak of the first amplifier."""
    entry = read_manifest(out / "store")["entry"].iloc[0]
    return entry, open_amplifier(out / "store", entry)


def test_the_command_writes_one_file_per_amplifier_and_format(written):
    out, result = written
    assert result.exit_code == 0, result.output
    entries = read_manifest(out / "store")["entry"].tolist()
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(["store", "failures.parquet", *(f"{e}.{s}" for e in entries for s in ("csv", "parquet"))])
    n_stars = sum(len(open_amplifier(out / "store", entry).streaks) for entry in entries)
    assert result.stdout == f"{n_stars} stars in 4 files in {out}\n"


def test_parquet_holds_the_fit_of_every_star_in_a_row_group_of_its_own(written):
    out, _ = written
    entry, amplifier = first_star(out)
    curves = fit_light_curves(amplifier, bin_rows=4)
    table = pd.read_parquet(out / f"{entry}.parquet")
    assert list(table) == COLUMNS
    assert table["flux_e_row"].to_numpy() == pytest.approx(curves.flux_e_row.ravel(), rel=1e-6, nan_ok=True)
    assert table["flux_error_e_row"].to_numpy() == pytest.approx(curves.error_e_row.ravel(), rel=1e-6, nan_ok=True)
    assert table["x"].unique() == pytest.approx(curves.streaks["x"].to_numpy())
    star = table[table["streak_id"] == 0]
    assert star["row"].tolist() == (np.arange(1000) * 4 + 1.5).tolist()
    assert star["time_s"].to_numpy() == pytest.approx((np.arange(1000) * 4 + 1.5) / 300)
    assert star["flux_e_s"].to_numpy() == pytest.approx(300 * star["flux_e_row"].to_numpy(), rel=1e-5, nan_ok=True)
    assert pq.ParquetFile(out / f"{entry}.parquet").num_row_groups == len(curves.streaks)
    assert pq.read_schema(out / f"{entry}.parquet").metadata[b"file"] == amplifier.file.encode()


def test_csv_says_the_same_as_parquet(written):
    out, _ = written
    entry, _ = first_star(out)
    pd.testing.assert_frame_equal(
        pd.read_csv(out / f"{entry}.csv", dtype={"time_read_utc": str}),
        pd.read_parquet(out / f"{entry}.parquet"),
        check_dtype=False,
        rtol=1e-5,
    )


def test_one_star_in_ecsv_has_units_and_is_a_time_series(written, frame, tiny_camera):
    out, _ = written
    entry, amplifier = first_star(out)
    x = amplifier.streaks["x"].iloc[0]
    result = call(frame, tiny_camera, out, "--resume", "--x", x + 0.3, "--format", "ecsv")
    assert result.exit_code == 0, result.output
    table = Table.read(out / f"{entry}_x{x:07.2f}.ecsv", format="ascii.ecsv")
    assert table.colnames[:3] == ["time", "flux", "flux_err"]
    assert (table["flux"].unit, table["flux_err"].unit) == (u.electron / u.s, u.electron / u.s)
    assert isinstance(table["time"], Time)
    read = fit_light_curves(amplifier).read_utc()
    assert np.abs((table["time"] - Time(read, scale="utc")).to_value("s")).max() < 2e-6
    alone = pd.read_parquet(out / f"{entry}.parquet").query("streak_id == 0")
    binned = np.asarray(table["flux"]).reshape(-1, 4)[-1].mean()
    assert binned == pytest.approx(alone["flux_e_s"].iloc[-1], rel=1e-3)
    assert len(TimeSeries(table)) == amplifier.n_rows  # what lightkurve's LightCurve is made of


def test_errors_are_right_on_simulated_frames(training_store):
    pulls = []
    for entry in read_manifest(training_store)["entry"]:
        curves = fit_light_curves(open_amplifier(training_store, entry), slice(200, 4000))
        middle = np.nanmean(curves.flux_e_row, axis=1, keepdims=True)
        pulls.append(((curves.flux_e_row - middle) / curves.error_e_row).ravel())
    assert np.nanstd(np.concatenate(pulls)) == pytest.approx(1.0, abs=0.05)


def test_a_catalogue_names_stars_and_makes_event_times_exact(written, frame, tiny_camera, tmp_path):
    out, _ = written
    entry, amplifier = first_star(out)
    star = amplifier.streaks.iloc[0]
    path = tmp_path / "stars.csv"
    pd.DataFrame({"x": [star["x"]], "y": [30.0], "mag": [star["mag"]], "name": ["V1, variable"]}).to_csv(path)
    result = call(frame, tiny_camera, out, "--resume", "--catalogue", path, "--x", star["x"], "--format", "csv")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / f"{entry}_x{star['x']:07.2f}.csv")
    assert list(table) == [*COLUMNS, "name"]
    assert table["name"].unique().tolist() == ["V1, variable"]
    assert (table["time_event_min_utc"] == table["time_event_max_utc"]).all()
    before = pd.to_datetime(table["time_read_utc"]) - pd.to_datetime(table["time_event_min_utc"])
    assert before.dt.total_seconds().to_numpy() == pytest.approx(np.full(len(table), 30 / 300), abs=2e-6)
    assert table["flux_e_row"].isna().to_numpy()[:30].all()  # before the streak begins


def test_frames_without_clock_and_zero_point_give_seconds(frame, tiny_camera, tmp_path):
    bare = tmp_path / "bare.fits"
    with fits.open(frame) as hdus:
        del hdus[0].header["TOPEN"], hdus[0].header["ZP"]
        hdus.writeto(bare)
    result = write(bare, tiny_camera, tmp_path / "out", formats=("ecsv", "parquet"), bin_rows=100)
    ecsv, parquet = result.paths[:2]
    table, same = Table.read(ecsv, format="ascii.ecsv"), pd.read_parquet(parquet)
    assert np.asarray(table["time"]) == pytest.approx(same["time_s"].to_numpy())
    assert table["time"].unit == u.s
    assert "mag" not in same
    assert set(same["time_read_utc"]) == {""}


def test_an_amplifier_without_stars_gives_an_empty_table(training_store, tmp_path):
    entry = read_manifest(training_store)["entry"].iloc[0]
    nobody = open_amplifier(training_store, entry).streaks.iloc[:0]
    formats = ("parquet", "ecsv", "csv")
    task = lightcurve.LightCurveTask(str(training_store), entry, nobody, (), str(tmp_path / "none"), formats, 1)
    parquet, ecsv, csv = lightcurve._write_task(task)
    assert list(pd.read_parquet(parquet)) == list(pd.read_csv(csv)) == COLUMNS
    assert [len(pd.read_parquet(parquet)), len(Table.read(ecsv, format="ascii.ecsv")), len(pd.read_csv(csv))] == [0] * 3


def test_what_fails_is_recorded_beside_what_succeeds(written, frame, tiny_camera, monkeypatch):
    out, _ = written
    entry, _ = first_star(out)

    def fit(amplifier, **options):
        if amplifier.entry == entry:
            raise LightCurveError("no light")
        return fit_light_curves(amplifier, **options)

    monkeypatch.setattr(lightcurve, "fit_light_curves", fit)
    result = write(frame, tiny_camera, out, resume=True, bin_rows=4)
    assert [path.stem for path in result.paths] == read_manifest(out / "store")["entry"].tolist()[1:]
    assert result.failures["reason"].tolist() == ["LightCurveError: no light"]
    assert pd.read_parquet(out / "failures.parquet")["file"].tolist() == [entry]


def test_a_column_without_star_names_the_nearest(written, frame, tiny_camera):
    out, _ = written
    everywhere = [
        (value, entry)
        for entry in read_manifest(out / "store")["entry"]
        for value in open_amplifier(out / "store", entry).streaks["x"]
    ]
    x = max(value for value, _ in everywhere) + 5
    near = ", ".join(f"{value:.2f} ({entry})" for value, entry in sorted(everywhere)[:-4:-1])
    result = call(frame, tiny_camera, out, "--resume", "--x", x)
    assert result.exit_code == 2
    assert f"no star within 1.5 px of x = {x:g}; the nearest are at x = {near}" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ("parquet", "fits")}, r"--format fits: it is not one of parquet, ecsv, csv"),
        ({"formats": ()}, r"--format \(none\): it is not one of parquet, ecsv, csv"),
        ({"bin_rows": 0}, r"--bin-rows 0: it must be 1 \(every row\) or more"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(LightCurveError, match=message):
        write("absent.fits", None, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_bad_catalogue_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "stars.csv").write_text("x,mag\n1,2\n")
    result = call("absent.fits", "tiny", tmp_path / "out", "--catalogue", tmp_path / "stars.csv")
    assert result.exit_code == 2
    assert "stars.csv lacks y: it needs x, y, mag and has x, mag" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
