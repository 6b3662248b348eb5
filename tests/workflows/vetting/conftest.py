"""A finished search of small frames, to be vetted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import SearchSettings
from shutterless.workflows.vetting.blind import prepare_blind

N_BLIND = 10


@pytest.fixture(scope="session")
def searched(tiny_camera, busy_frames, tmp_path_factory) -> Path:
    """A search of two files with events; what is vetted goes to copies of it."""
    folder = tmp_path_factory.mktemp("vetted") / "found"
    settings = SearchSettings(false_alarms_per_hour=20_000.0, own_rates=False, trigger_threshold=11.5)
    search_files(
        busy_frames, reference="template-bank", out=folder, settings=settings, instrument=tiny_camera,
        executor=SerialExecutor(),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def blinded(searched, tmp_path_factory) -> Path:
    """The same search with a blind test of ten events."""
    folder = shutil.copytree(searched, tmp_path_factory.mktemp("blinded") / "found")
    assert prepare_blind(folder, N_BLIND, SerialExecutor(), seed=4) == N_BLIND
    return folder


@pytest.fixture
def search(searched, tmp_path) -> Path:
    """A copy of the search of its own."""
    return shutil.copytree(searched, tmp_path / "found")


@pytest.fixture
def blind_search(blinded, tmp_path) -> Path:
    """A copy of the search with the blind test."""
    return shutil.copytree(blinded, tmp_path / "blind")
