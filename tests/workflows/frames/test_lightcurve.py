"""Light curves of simulated frames: by the command, in every format, and with bad arguments."""

from __future__ import annotations

from pathlib import Path

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

from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.barycentric import Direction, bjd_tdb
from shutterless.pipeline.results.lightcurves import LightCurveError, LightCurves, fit_light_curves
from shutterless.pipeline.store.store import open_amplifier, read_manifest
from shutterless.workflows.cli import app
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames import lightcurve
from shutterless.workflows.frames.lightcurve import write_light_curves
from shutterless.workflows.frames.lightcurve_files import Observer, barycentric_time

COLUMNS = ["time_s", "time_read_utc", "time_event_min_utc", "time_event_max_utc", "flux_e_row", "flux_error_e_row"]
COLUMNS += ["flux_e_s", "mag", "row", "streak_id", "x"]
FITS_COLUMNS = ["TIME", "FLUX", "FLUX_ERR", "TIME_S", "ROW"]
SITE_OF_ZTF = load_profile("ztf").site
SITE = "[site]\nlatitude_deg = 33.3483\nlongitude_deg = -116.8597\nheight_m = 1706\n"


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
    """Entry, column and other values of the first streak of the first amplifier."""
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
    assert len(TimeSeries(table)) == amplifier.n_rows  # the base class of lightkurve's LightCurve


def test_fits_has_a_table_per_star_with_the_time_reference_that_readers_look_for(frame, written, tiny_camera):
    # lightkurve.read 2.6 opens it, bins it and makes periodograms: it needs TIME, FLUX and FLUX_ERR in extension 1,
    # MJDREFI, MJDREFF and TIMESYS in its header, "e-/s", and no text columns
    out, _ = written
    entry, amplifier = first_star(out)
    assert call(frame, tiny_camera, out, "--resume", "--format", "fits").exit_code == 0
    curves = fit_light_curves(amplifier)
    with fits.open(out / f"{entry}.fits") as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == [f"STREAK_{number}" for number in curves.streaks["streak_id"]]
        for star, hdu in enumerate(hdus[1:]):
            assert hdu.data.names == FITS_COLUMNS
            assert (hdu.header["TIMESYS"], hdu.header["TUNIT1"], hdu.header["TUNIT2"]) == ("UTC", "d", "e-/s")
            assert hdu.header["X"] == pytest.approx(curves.streaks["x"][star])
            assert hdu.data["FLUX"] == pytest.approx(300 * curves.flux_e_row[star], rel=1e-5, nan_ok=True)
            assert hdu.data["FLUX_ERR"] == pytest.approx(300 * curves.error_e_row[star], rel=1e-5, nan_ok=True)
        days = hdu.header["MJDREFI"] + hdu.header["MJDREFF"] + hdu.data["TIME"]
    read = Time(curves.read_utc(), scale="utc")
    assert np.abs((Time(days, format="mjd", scale="utc") - read).to_value("s")).max() < 2e-6


@pytest.fixture(scope="module")
def placed_camera(tiny_camera, tmp_path_factory):
    """The small camera with a site."""
    path = tmp_path_factory.mktemp("placed") / "tiny.toml"
    path.write_text(f"{Path(tiny_camera).read_text()}{SITE}")
    return str(path)


def test_barycentric_times_of_a_named_star_are_those_of_its_own_position(frame, placed_camera, written, tmp_path):
    amplifier = first_star(written[0])[1]
    star, place = amplifier.streaks.iloc[0], {"ra": 150.0, "dec": 10.0, "quadrant": amplifier.readout.quadrant}
    path = tmp_path / "stars.csv"
    pd.DataFrame([{"x": star["x"], "y": 30.0, "mag": star["mag"], "name": "V1", **place}]).to_csv(path)
    options = ("--catalogue", path, "--name", "V1", "--barycentric", "--format", "parquet", "--format", "fits")
    result = call(frame, placed_camera, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    parquet, table = sorted((tmp_path / "out").glob("*_x*"))[::-1]
    written_times = pd.read_parquet(parquet)
    expected = bjd_tdb(amplifier.readout, np.arange(4000) - 30.0, Direction(150.0, 10.0), SITE_OF_ZTF)
    assert written_times["name"].unique().tolist() == ["V1"]
    assert np.abs(written_times["bjd_tdb"].to_numpy() - expected.jd).max() * 86_400 < 1e-4
    with fits.open(table) as hdus:
        header, data = hdus[1].header, hdus[1].data
        assert (header["OBJECT"], header["TIMESYS"], header["TIMEREF"]) == ("V1", "TDB", "BARYCENTER")
        assert (header["RA_OBJ"], header["DEC_OBJ"]) == (150.0, 10.0)
        assert np.abs(data["TIME"] + header["MJDREFI"] - expected.mjd).max() * 86_400 < 2e-6


def test_a_position_given_serves_all_stars_and_the_pointing_brings_a_warning(frame, placed_camera, tmp_path):
    given = write(frame, placed_camera, tmp_path / "given", barycentric=True, direction=Direction(150.0, 10.0))
    assert not any("barycentric" in line for line in given.warnings)
    pointed = tmp_path / "pointed.fits"
    with fits.open(frame) as hdus:
        hdus[0].header["RA"], hdus[0].header["DEC"] = 150.0, 10.0
        hdus.writeto(pointed)
    result = write(pointed, placed_camera, tmp_path / "pointed", barycentric=True)
    assert any("8.7 s a degree; give --ra and --dec" in line for line in result.warnings)
    times = [pd.read_parquet(paths[0])["bjd_tdb"] for paths in (given.paths, result.paths)]
    assert times[0].tolist() == times[1].tolist()
    unknown = times[0][:4000].to_numpy()  # without y0 the middle of the transit of 50 rows is taken
    assert np.isfinite(unknown).all()
    assert (np.diff(unknown) >= 0).all()


def test_barycentric_times_of_rows_read_after_the_shutter_closed_are_of_light_before_that():
    # open for 4,500 rows: the light of row 6000 of an unknown star fell while rows 2920 to 4500 were read, and that of
    # row 9000 has its end there
    readout = Readout(
        300.0, 6.2, 10.0, 48_000.0, 3080, first_row=0, shutter_open_utc="2026-03-04T05:06:07", close_row=4500
    )
    rows, streaks = np.array([4000.0, 6000.0, 9000.0]), pd.DataFrame({"y0": [np.nan, 2500.0]})
    curves = LightCurves(streaks, rows, np.ones((2, 3)), np.ones((2, 3)), readout)
    direction = Direction(150.0, 10.0)
    for star, moments in enumerate(([2460.0, 3710.0, 4500.0], [1500.0, 3500.0, 6500.0])):
        time = barycentric_time(curves, star, Observer(SITE_OF_ZTF, direction))
        expected = bjd_tdb(readout, np.array(moments), direction, SITE_OF_ZTF)
        assert np.abs((time - expected).to_value("s")).max() < 1e-6


def test_what_barycentric_times_lack_is_named_before_anything_is_read(frame, placed_camera, tiny_camera, tmp_path):
    for camera, message in (
        (tiny_camera, "profile tiny has no site of the telescope"),
        (placed_camera, "no RA and no DEC in the primary header"),
    ):
        result = call(frame, camera, tmp_path / "out", "--barycentric")
        assert (result.exit_code, message in result.stderr) == (2, True)
    for options in (("--ra", 3, "--dec", 4), ("--barycentric", "--ra", 3)):
        result = call(frame, placed_camera, tmp_path / "out", *options)
        assert result.exit_code == 2
        assert "--ra and --dec belong together, and to --barycentric" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stars", "options", "message"),
    [
        (None, {"name": "V1"}, r"--name V1: no --catalogue is given, and names are known from a catalogue alone"),
        ({"x": [3.0]}, {"name": "V1"}, r"--name V1: the catalogue has no column name"),
        ({"x": [3.0], "name": ["V11"]}, {"name": "V1"}, r"--name V1: not in the catalogue; the nearest names are V11"),
        ({"x": [3.0], "name": ["V1"]}, {"name": "V1", "x": 3.0}, r"--x 3 and --name V1 both choose a star; give one"),
    ],
)
def test_names_that_choose_no_star_are_refused_before_anything_is_read(tmp_path, stars, options, message):
    path = None
    if stars is not None:
        path = tmp_path / "stars.csv"
        pd.DataFrame({"y": [1.0], "mag": [12.0], **stars}).to_csv(path)
    with pytest.raises(LightCurveError, match=message):
        write("absent.fits", None, tmp_path / "out", catalogue=path, **options)
    assert not (tmp_path / "out").exists()


def test_a_named_star_without_a_streak_says_where_it_should_be_and_the_catalogue_is_doubted(
    frame, tiny_camera, tmp_path
):
    path = tmp_path / "stars.csv"
    pd.DataFrame({"x": [33.0], "y": [1.0], "mag": [-3.0], "name": ["Sirius"]}).to_csv(path)
    with pytest.raises(
        LightCurveError, match=r"--name Sirius: no streak is within 1.5 px and 1 mag of .* x = 33.00, m"
    ):
        write(frame, tiny_camera, tmp_path / "out", catalogue=path, name="Sirius")
    result = write(frame, tiny_camera, tmp_path / "out", catalogue=path, resume=True)
    assert all("only 0 of 1 catalogue stars (0%) have a streak" in line for line in result.warnings)
    assert len(result.warnings) == 2


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
    assert table["flux_e_row"].isna().to_numpy()[:30].all()  # before the start of the streak


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
    formats = ("parquet", "ecsv", "csv", "fits")
    task = lightcurve.LightCurveTask(str(training_store), entry, nobody, (), str(tmp_path / "none"), formats, 1)
    parquet, ecsv, csv, table = lightcurve._write_task(task)
    assert list(pd.read_parquet(parquet)) == list(pd.read_csv(csv)) == COLUMNS
    assert [len(pd.read_parquet(parquet)), len(Table.read(ecsv, format="ascii.ecsv")), len(pd.read_csv(csv))] == [0] * 3
    with fits.open(table) as hdus:
        assert [(hdu.data.names, len(hdu.data)) for hdu in hdus[1:]] == [(FITS_COLUMNS, 0)]


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
        ({"formats": ("parquet", "hdf5")}, r"--format hdf5: it is not one of parquet, ecsv, csv, fits"),
        ({"formats": ()}, r"--format \(none\): it is not one of parquet, ecsv, csv, fits"),
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
