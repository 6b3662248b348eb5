"""A finished search that is resumed with nothing changed is not made again, and gives what it gave; else it is."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from fake_cubes import star_images, write_kepler

from shutterless.pipeline.files import hash_file
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching import search as search_module
from shutterless.workflows.searching.search import SearchResult, search_files
from shutterless.workflows.settings.settings import SearchSettings


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """A star that is twice as bright in three images, and one that is not."""
    folder = tmp_path_factory.mktemp("cubes")
    bright = star_images(120, 5, 5)
    bright[60:63] *= 2
    return [write_kepler(folder / "a.fits", bright), write_kepler(folder / "b.fits", star_images(120, 5, 5, seed=1))]


def search(files: list[Path], out: Path, rate: float = 50.0) -> SearchResult:
    settings = SearchSettings(false_alarms_per_hour=rate)
    return search_files(
        files, reference="template-bank", out=out, settings=settings, executor=SerialExecutor(), resume=True
    )


@pytest.fixture
def finished(files, tmp_path) -> SearchResult:
    return search(files, tmp_path)


@pytest.fixture
def n_surveys(monkeypatch) -> list[int]:
    """Number of files of every survey of headers, with which a search begins."""
    surveys: list[int] = []
    survey = search_module.survey_files

    def counted(files, **options):
        surveys.append(len(files))
        return survey(files, **options)

    monkeypatch.setattr(search_module, "survey_files", counted)
    return surveys


def test_nothing_is_read_again_and_the_result_is_the_same(files, finished, tmp_path, n_surveys):
    before = {path: hash_file(path).hexdigest() for path in tmp_path.glob("*.*")}
    again = search(files, tmp_path)
    assert not n_surveys
    assert len(again.candidates) > 0
    pd.testing.assert_frame_equal(again.candidates, finished.candidates, check_exact=True)
    pd.testing.assert_frame_equal(again.failures, finished.failures)
    assert again.said() == finished.said()
    assert again.rates.describe(3) == finished.rates.describe(3)
    assert {path: hash_file(path).hexdigest() for path in tmp_path.glob("*.*")} == before


def touch(files, out):
    os.utime(files[0], ns=(0, files[0].stat().st_mtime_ns + 1))


def spoil_a_part(files, out):
    next((out / "parts").iterdir()).joinpath("triggers.parquet").write_bytes(b"")


def remove_a_table(files, out):
    (out / "vetoed.parquet").unlink()


@pytest.mark.parametrize("change", [touch, spoil_a_part, remove_a_table])
def test_after_a_change_the_tables_are_made_again(change, files, finished, tmp_path, n_surveys):
    change(files, tmp_path)
    again = search(files, tmp_path)
    assert n_surveys == [2]
    pd.testing.assert_frame_equal(again.candidates, finished.candidates, check_exact=True)
    assert (tmp_path / "vetoed.parquet").is_file()
    search(files, tmp_path)
    assert n_surveys == [2]  # and now it is finished anew


def test_another_rate_or_another_list_of_files_is_another_search(files, finished, tmp_path, n_surveys):
    assert search(files, tmp_path, rate=5.0).rates.asked == 5
    search(files[:1], tmp_path)
    assert n_surveys == [2, 1]


def test_a_search_in_which_a_file_failed_tries_it_again(files, tmp_path, n_surveys):
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE")
    for _ in range(2):
        assert len(search([*files, broken], tmp_path / "out").failures) == 1
    assert n_surveys == [3, 3]


def test_it_is_said(files, finished, tmp_path, monkeypatch):
    said: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "write_line", said.append)
    settings = SearchSettings(false_alarms_per_hour=50.0)
    search_files(
        files, reference="template-bank", out=tmp_path, settings=settings, executor=SerialExecutor(), resume=True,
        progress=progress,
    )  # fmt: skip
    assert said == ["nothing has changed since this search was finished"]
