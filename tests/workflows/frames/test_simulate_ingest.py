"""Simulated frames and stores: equal with every executor, failures recorded, resumed = uninterrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.frames import read_frame_info
from shutterless.pipeline.store.store import read_manifest
from shutterless.workflows.execution.cluster import SerialExecutor, open_executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import (
    FAILURES,
    IngestError,
    estimate_seconds,
    estimate_store_bytes,
    find_overlaps,
    find_truth,
    ingest_files,
    prepare_folder,
    survey_files,
)
from shutterless.workflows.frames.simulate import SimulateError, make_room_for_frames, simulate_scene
from shutterless.workflows.settings.settings import load_scene

PROFILE = """
name = "small"
[recognise]
keywords = []
[geometry]
n_columns = 64
n_overscan_columns = 30
overscan_used = [20, 30]
[[quadrants]]
data_hdu = 1
overscan_hdu = 3
[[quadrants]]
data_hdu = 2
overscan_hdu = 4
flip_columns = true
flip_rows = true
[keywords]
ccd = "CCD_ID"
amplifier = "AMP_ID"
row_rate_hz = "ROWRATE"
shutter_open_utc = "SHUTOPEN"
sequence = "SEQID"
first_row = "SEQROW0"
n_transit = "NTRANSIT"
gain_e_per_adu = "GAIN"
read_noise_e = "READNOI"
saturation_adu = "SATURATE"
band = "FILTER"
zero_point_mag = "MAGZP1S"
pixel_scale_arcsec = "PIXSCALE"
seeing_arcsec = "SEEING"
[defaults]
amp_id_start = 1
n_transit = 100
gain_e_per_adu = 6.2
read_noise_e = 10.0
saturation_adu = 48000.0
pixel_scale_arcsec = 1.012
seeing_arcsec = 2.0
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "small.toml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def scene(profile):
    values = {"sequence": "night", "seed": 3, "instrument": profile, "rows": 600, "files": 2, "events": 2}
    return load_scene(values, ["n_bright_stars=400"])


@pytest.fixture(scope="module")
def simulated(scene, tmp_path_factory):
    return simulate_scene(scene, tmp_path_factory.mktemp("frames"), executor=SerialExecutor())


@pytest.fixture(scope="module")
def dask():
    with open_executor(workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def ingested(simulated, profile, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, ingest_files(simulated.files, store, instrument=profile, executor=SerialExecutor())


def copy_frames(simulated, folder):
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(path, folder)) for path in simulated.files]


def test_simulated_sequence_goes_on_from_file_to_file(simulated, profile):
    first_rows = [read_frame_info(path, profile).readouts[1].first_row for path in simulated.files]
    assert first_rows == [0, 600]
    truth = pd.read_parquet(simulated.truth)
    assert set(truth["file"]) == {path.name for path in simulated.files}
    assert truth["is_event"].sum() == 2 * 2 * 2  # events x amplifiers x files
    assert simulated.failures == ()


def test_simulation_is_the_same_to_the_bit_with_dask(scene, simulated, dask, tmp_path):
    again = simulate_scene(scene, tmp_path, executor=dask)
    for one, other in zip(simulated.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(simulated.truth), pd.read_parquet(again.truth))


def test_simulation_of_one_file_that_fails_is_recorded(scene, tmp_path):
    blocked = tmp_path / "night_c01_000.fits.fz"
    blocked.mkdir()
    (blocked / "in the way").touch()
    result = simulate_scene(scene, tmp_path, executor=SerialExecutor())
    assert [path.name for path in result.files] == ["night_c01_001.fits.fz"]
    assert result.failures[0].startswith("CCD 1, file 0: ")
    assert set(pd.read_parquet(result.truth)["file"]) == {"night_c01_001.fits.fz"}


def test_finished_frames_are_not_overwritten_unasked(scene, simulated, tmp_path):
    copies = copy_frames(simulated, tmp_path)
    for table in (simulated.truth, simulated.stars):
        shutil.copy(table, tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SimulateError, match=r"already holds simulated frames \(2\) and their truth; .* --force"):
        make_room_for_frames(tmp_path, force=False)
    assert all(path.is_file() for path in copies)
    make_room_for_frames(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    make_room_for_frames(tmp_path, force=False)


def test_files_without_a_shutter_time_are_named_at_once(simulated, profile, tmp_path, capsys):
    with fits.open(simulated.files[0], disable_image_compression=True) as hdus:
        del hdus[0].header["SHUTOPEN"]
        hdus.writeto(tmp_path / "untimed.fits.fz")
    files = [tmp_path / "untimed.fits.fz", simulated.files[1]]
    survey = survey_files(files, instrument=profile, executor=SerialExecutor(), progress=Progress())
    said = capsys.readouterr().err
    assert survey.warnings == ()
    quiet = survey_files(files, instrument=profile, executor=SerialExecutor(), progress=Progress(quiet=True))
    assert [f"warning: {line}" for line in quiet.warnings] == [line for line in said.splitlines() if "lack" in line]
    assert (
        "warning: 1 of 2 files lack SHUTOPEN (untimed.fits.fz first): times in seconds only; give it with --set" in said
    )
    survey_files(simulated.files, instrument=profile, executor=SerialExecutor(), progress=Progress())
    assert "times in seconds" not in capsys.readouterr().err


def test_a_shutter_time_that_is_not_understood_is_said_once_with_the_reason(simulated, profile, tmp_path, capsys):
    with fits.open(simulated.files[0], disable_image_compression=True) as hdus:
        hdus[0].header["SHUTOPEN"] = "yesterday"
        hdus.writeto(tmp_path / "odd.fits.fz")
    survey_files([tmp_path / "odd.fits.fz"], instrument=profile, executor=SerialExecutor(), progress=Progress())
    said = capsys.readouterr().err
    assert said.count("warning: ") == said.count("SHUTOPEN = yesterday is no date") == 1
    assert "lack" not in said


def test_every_amplifier_of_every_file_is_in_the_manifest(ingested, simulated):
    store, result = ingested
    expected = sorted((path.name, quadrant) for path in simulated.files for quadrant in (1, 2))
    assert sorted(zip(result.manifest["file"], result.manifest["quadrant"], strict=True)) == expected
    assert result.instruments == ("small",)
    assert len(pd.read_parquet(store / FAILURES)) == len(result.failures) == 0


def test_store_is_the_same_to_the_bit_with_dask(ingested, simulated, profile, dask, tmp_path):
    result = ingest_files(simulated.files, tmp_path / "store", instrument=profile, executor=dask)
    pd.testing.assert_frame_equal(result.manifest, ingested[1].manifest)  # holds the content hashes


def test_resumed_ingest_equals_an_uninterrupted_one(ingested, simulated, profile, tmp_path):
    options = {"instrument": profile, "executor": SerialExecutor()}
    store = tmp_path / "store"
    ingest_files(simulated.files[:1], store, **options)
    times = {path: path.stat().st_mtime_ns for path in store.glob("*/residual.npy")}
    result = ingest_files(simulated.files, store, resume=True, **options)
    pd.testing.assert_frame_equal(result.manifest, ingested[1].manifest)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_resume_keeps_entries_of_files_that_are_not_named_again(ingested, simulated, profile, tmp_path):
    options = {"instrument": profile, "executor": SerialExecutor()}
    ingest_files(simulated.files[:1], tmp_path, **options)
    result = ingest_files(simulated.files[1:], tmp_path, resume=True, **options)
    pd.testing.assert_frame_equal(result.manifest, ingested[1].manifest)


def test_finished_store_is_not_overwritten_unasked(ingested, simulated, profile):
    with pytest.raises(IngestError, match="already holds a finished store; add to it with --resume"):
        ingest_files(simulated.files, ingested[0], instrument=profile, executor=SerialExecutor())


def test_damaged_files_are_recorded_and_the_others_ingested(simulated, profile, tmp_path):
    good, truncated = copy_frames(simulated, tmp_path / "frames")
    truncated.write_bytes(truncated.read_bytes()[:20_000])
    absent = tmp_path / "absent.fits"
    store = tmp_path / "store"
    result = ingest_files([good, truncated, absent], store, instrument=profile, executor=SerialExecutor())
    assert set(result.manifest["file"]) == {good.name}
    failures = pd.read_parquet(store / FAILURES)
    assert set(failures["file"]) == {truncated.name, "absent.fits"}
    assert failures["reason"].str.startswith("FrameError: ").all()


def test_skipped_quadrant_is_a_failure_of_that_quadrant(simulated, profile, tmp_path):
    from astropy.io import fits

    frame, _ = copy_frames(simulated, tmp_path)
    with fits.open(frame, mode="update") as hdus:
        hdus[2].header["GAIN"] = -1.0
    survey = survey_files([frame], instrument=profile, executor=SerialExecutor())
    assert [(task.path, task.quadrant) for task in survey.tasks] == [(frame, 1)]
    (failure,) = survey.failures.to_dict("records")
    assert failure["quadrant"] == 2
    assert "GAIN" in failure["reason"]


def test_amplifier_whose_pixels_are_damaged_is_recorded(simulated, profile, tmp_path):
    from astropy.io import fits

    frame, _ = copy_frames(simulated, tmp_path / "frames")
    with fits.open(frame, mode="update") as hdus:
        hdus[2].data[:] = 7
    result = ingest_files([frame], tmp_path / "store", instrument=profile, executor=SerialExecutor())
    assert list(result.manifest["quadrant"]) == [1]
    (failure,) = result.failures.to_dict("records")
    assert failure["quadrant"] == 2
    assert "all pixels equal 7" in failure["reason"]


def test_two_files_of_one_name_are_refused_and_the_same_file_twice_is_one(simulated, profile, tmp_path):
    (one, _), (other, _) = copy_frames(simulated, tmp_path / "a"), copy_frames(simulated, tmp_path / "b")
    with pytest.raises(IngestError, match=r"a/night_c01_000.* and .*b/night_c01_000.* have the same name"):
        survey_files([one, other], instrument=profile, executor=SerialExecutor())
    assert len(survey_files([one, one], instrument=profile, executor=SerialExecutor()).infos) == 1
    with pytest.raises(IngestError, match="no input files were given"):
        survey_files([], executor=SerialExecutor())


def test_files_that_hold_the_same_rows_are_warned_of_once(simulated, profile, tmp_path):
    renamed = Path(shutil.copy(simulated.files[0], tmp_path / "copy.fits.fz"))
    infos = [read_frame_info(path, profile) for path in (*simulated.files, renamed)]
    (line,) = find_overlaps(infos)
    assert "both hold rows 0 to 599 of sequence 'night', CCD 1" in line
    assert find_overlaps(infos[:2]) == []


def test_output_folder_that_is_a_file_is_refused(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(IngestError, match=r"cannot write to output folder .*file: .*; choose another with --out"):
        prepare_folder(blocked)


def test_truth_is_found_beside_the_frames(ingested, simulated, profile, tmp_path):
    assert find_truth(ingested[0]) == simulated.truth
    frames = copy_frames(simulated, tmp_path / "frames")
    ingest_files(frames, tmp_path / "store", instrument=profile, executor=SerialExecutor())
    with pytest.raises(IngestError, match=r"is not clear \(looked in .*name it with --truth"):
        find_truth(tmp_path / "store")


def test_estimates_are_those_of_the_head():
    assert estimate_seconds(80, 2, 10.0) == 4.0
    assert estimate_store_bytes(64) == 64 * 2 + 2 * 4


def test_size_of_a_store_is_as_estimated(ingested):
    store, result = ingested
    n_pixels = int((result.manifest["n_rows"] * 64).sum())
    arrays = [path for name in ("residual", "baseline_e", "sigma_e") for path in store.glob(f"*/{name}.npy")]
    assert sum(path.stat().st_size for path in arrays) == pytest.approx(estimate_store_bytes(n_pixels), rel=0.05)
    assert len(read_manifest(store)) == 4
