"""Folders, patterns, files of one name, and files that raise what no one expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_cubes import write_plain

from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.execution.retries import UnreadableError, alone
from shutterless.workflows.frames import ingest
from shutterless.workflows.frames.ingest import IngestError, describe_notes, label_files, survey_files

SKY = np.random.default_rng(5).poisson(100, (30, 6, 7)).astype(np.float32)


def survey(*files, **options):
    return survey_files(files, executor=SerialExecutor(), **options)


def test_folder_stands_for_its_files(tmp_path):
    for name in ("b.fits", "a.FIT", ".hidden.fits", "notes.txt"):
        write_plain(tmp_path / "x.fits", SKY).rename(tmp_path / name)
    found = survey(tmp_path, tmp_path / "b.fits")
    assert [info.path.name for info in found.infos] == ["a.FIT", "b.fits"]
    (tmp_path / "none").mkdir()
    with pytest.raises(IngestError, match=r"folder .*none holds no FITS file"):
        survey(tmp_path / "none")
    with pytest.raises(IngestError, match=r"no file matches .*\*\.fits"):
        survey(tmp_path / "none" / "*.fits")


def test_files_of_one_name_are_told_apart(tmp_path):
    paths = []
    for night in ("1", "2"):
        (tmp_path / night).mkdir()
        paths.append(write_plain(tmp_path / night / "a.fits", SKY))
    with pytest.raises(IngestError, match=r"1/a\.fits and .*2/a\.fits have the same name"):
        survey(*paths)
    assert len(survey(*paths, same_names=True).infos) == 2
    assert list(label_files([*paths, tmp_path / "b.fits"]).values()) == ["1/a.fits", "2/a.fits", "b.fits"]
    assert list(label_files([Path("/n/1/a"), Path("/m/1/a")]).values()) == ["n/1/a", "m/1/a"]
    assert label_files([]) == {}


def test_a_note_on_many_files_is_one_line():
    notes = [(Path("a"), "no UTC"), (Path("b"), "no UTC"), (Path("a"), "few"), (Path("a"), "no UTC")]
    assert describe_notes(notes) == ["a and 1 more: no UTC", "a: few"]


def test_exception_of_one_file_is_its_own(tmp_path, monkeypatch):
    good, bad = write_plain(tmp_path / "good.fits", SKY), write_plain(tmp_path / "bad.fits", SKY)
    read_info = ingest.read_info

    def fail(path, *arguments):
        if path == bad:
            raise AttributeError("no such thing")
        return read_info(path, *arguments)

    monkeypatch.setattr(ingest, "read_info", fail)
    found = survey(bad, good)
    assert [info.path for info in found.infos] == [good]
    (failure,) = found.failures.to_dict("records")
    assert failure["reason"].startswith(f"UnreadableError: {bad} cannot be used: AttributeError: no such thing")


def test_expected_errors_stay_what_they_are():
    with pytest.raises(OSError, match="disk"):
        alone(Path.open, "a")(Path("/no/such/disk"))
    with pytest.raises(UnreadableError, match=r"a cannot be used: ZeroDivisionError: .*please report this file"):
        alone(lambda: 1 // 0, "a")()


def test_stack_is_surveyed_in_place_of_its_images(tmp_path):
    night = tmp_path / "night"
    night.mkdir()
    for k, image in enumerate(SKY):
        write_plain(night / f"{k:02d}.fits", image, header={"DATE-OBS": f"2026-03-04T05:06:{k:02d}", "CADENCE": 1.0})
    (night / "zz.fits").write_bytes(b"no FITS")
    found = survey(night, stack=tmp_path / "stacked")
    (info,) = found.infos
    assert (info.path, info.n_rows) == (tmp_path / "stacked" / "00_stack.fits", 30)
    assert info.notes[0] == "30 images of 30 files are one cube"
    assert list(found.failures["file"]) == ["zz.fits"]
