"""Injected frames for a blind test: files written, bad arguments, failures listed."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pandas as pd
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.injection.amplifiers import InjectionError, InjectionSettings
from shutterless.workflows.cli import app
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.inject import InjectError, inject_files, share_equally
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.settings.settings import load_scene

SETTINGS = InjectionSettings(kinds=(("burst", 1.0),), rho=(8.0, 12.0))
EASY = {"settings": SETTINGS, "events": 3, "seed": 1, "executor": SerialExecutor()}


@pytest.fixture(scope="module")
def frames(tiny_camera, tmp_path_factory):
    """Two event-free files of the small camera."""
    values = {"n_bright_stars": 3000.0, "suffix": ".fits", "rows": 3000, "files": 2, "events": 0, "seed": 4}
    scene = load_scene({**values, "instrument": tiny_camera, "sequence": "calm"})
    return simulate_scene(scene, tmp_path_factory.mktemp("calm"), executor=SerialExecutor()).files


def test_copies_and_tables_are_written(frames, tiny_camera, tmp_path):
    before = [path.read_bytes() for path in frames]
    result = inject_files(frames, tmp_path / "out", instrument=tiny_camera, **EASY)
    assert [path.name for path in result.files] == [path.name for path in frames]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "calm_c01_000.fits", "calm_c01_001.fits", "stars.parquet", "truth.parquet",
    ]  # fmt: skip
    assert [path.read_bytes() for path in frames] == before
    truth = pd.read_parquet(result.truth)
    assert result.n_events == len(truth) >= 6
    assert truth["event_id"].is_unique
    assert truth["rho"].between(8, 12).all()
    assert set(truth["file"]) == {path.name for path in frames}
    assert result.failures.empty


def test_a_blind_test_finds_no_truth_beside_the_frames(frames, tiny_camera, tmp_path):
    result = inject_files(frames[:1], tmp_path / "out", hide=tmp_path / "key", instrument=tiny_camera, **EASY)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [frames[0].name]
    assert result.truth == tmp_path / "key" / "truth.parquet"


def test_order_of_the_files_does_not_matter(frames, tiny_camera, tmp_path):
    one = inject_files(frames, tmp_path / "a", instrument=tiny_camera, **EASY)
    other = inject_files(frames[::-1], tmp_path / "b", instrument=tiny_camera, **EASY)
    assert pd.read_parquet(one.truth).equals(pd.read_parquet(other.truth))
    assert one.files[0].read_bytes() == other.files[1].read_bytes()


def test_nothing_is_overwritten(frames, tiny_camera, tmp_path):
    with pytest.raises(InjectError, match=r"lies in .*, where its copy would replace it; choose another --out"):
        inject_files(frames, frames[0].parent, hide=tmp_path, instrument=tiny_camera, **EASY)
    (tmp_path / "truth.parquet").write_bytes(b"")
    with pytest.raises(InjectError, match=r"already holds a truth.parquet; choose another folder"):
        inject_files(frames, tmp_path, instrument=tiny_camera, **EASY)
    with pytest.raises(InjectError, match=r"events 0 must be at least 1"):
        inject_files(frames, tmp_path, instrument=tiny_camera, **{**EASY, "events": 0})


def test_settings_are_checked():
    settings = InjectionSettings(kinds=share_equally(EVENT_KINDS), rho=(5.0, 6.0), partial=0.0)
    assert sum(share for _, share in settings.kinds) == pytest.approx(1)
    for changes, message in (
        ({"kinds": share_equally(["nova"])}, r"\[kinds\] entry 0 entry 0 = 'nova': no kind of event; known are flare"),
        ({"kinds": ()}, r"\[kinds\] = \(\): tuple should have at least 1 item"),
        ({"rho": (6.0, 5.0)}, r"\[rho\] = \(6\.0, 5\.0\): the smallest comes first"),
        ({"partial": 2.0}, r"\[partial\] = 2\.0: input should be less than or equal to 1"),
    ):
        with pytest.raises(InjectionError, match=message):
            replace(settings, **changes)


def test_dead_amplifiers_are_listed_once(frames, tiny_camera, tmp_path):
    dead = tmp_path / "dead.fits"
    shutil.copy(frames[0], dead)
    with fits.open(dead, mode="update") as hdus:
        hdus[2].data[:] = 7
    result = inject_files([dead], tmp_path / "out", instrument=tiny_camera, **EASY)
    assert result.failures[["path", "quadrant"]].to_numpy().tolist() == [[str(dead), 2]]
    assert len(result.files) == 1


def test_command_lists_what_cannot_be_read(frames, tiny_camera, tmp_path):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"SIMPLE")
    arguments = ["inject", *map(str, frames), str(bad), "--out", str(tmp_path / "out"), "--instrument", tiny_camera]
    arguments += ["--events", "2", "--kinds", "burst, glint", "--rho", "9,12", "--hide", str(tmp_path / "key")]
    result = CliRunner().invoke(app, [*arguments, "--no-dask", "--quiet"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"1 failed:\n  {bad}: FrameError: ")
    n = len(pd.read_parquet(tmp_path / "key" / "truth.parquet"))
    expected = f"{n} events in 2 files in {tmp_path / 'out'}; their truth is {tmp_path / 'key' / 'truth.parquet'}\n"
    assert result.stdout == expected
    planned = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert "would write as many frames to" in planned.stdout
    refused = CliRunner().invoke(app, ["inject", "a.fits", "--out", "x", "--rho", "9"])
    assert refused.exit_code == 2
    assert "error: --rho '9': expected two numbers such as 5,20" in refused.stderr
