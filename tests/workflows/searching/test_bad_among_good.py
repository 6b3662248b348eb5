"""Bad files among good ones: the good ones have the candidates they have alone, and each bad one has its reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_frames import N_COLUMNS, SKY_E, add_pulse, expose, write_tiny
from typer.testing import CliRunner

from shutterless.workflows import cli

N_ROWS = 256


def spoil(content: bytes, how: int) -> bytes:
    """One of ten kinds of damage that leaves nothing to be searched."""
    cards = content[:2880]
    return [
        b"",
        b"not a FITS file",
        content[: len(content) // 2],
        content[:4000],
        cards.replace(b"NAXIS   =                    0", b"NAXIS   =                  NaN") + content[2880:],
        content.replace(b"NAXIS1  =                   64", b"NAXIS1  =        1000000000000"),
        content.replace(b"NAXIS2  =                  256", b"NAXIS2  =                    0"),
        cards.replace(b"CLOCK   =                300.0", b"CLOCK   =                 fast") + content[2880:],
        gzip.compress(content)[:-200],
        bytes(len(content)),
    ][how]


def write_files(folder: Path, n_good: int, n_bad: int) -> tuple[list[Path], list[Path]]:
    """Frames of the small camera, each with a pulse, and damaged ones whose names sort among theirs."""
    rng = np.random.default_rng(4)
    images = []
    for seed in range(min(n_good, 20)):  # so many different ones
        electrons = np.full((N_ROWS, 2 * N_COLUMNS), SKY_E)
        add_pulse(electrons, int(rng.integers(60, 200)), float(rng.uniform(5, 120)), 3.0, 25.0)
        images.append(expose(electrons, seed))
    good = [write_tiny(folder / f"{k:05d}.fits", images[k % len(images)], 400, SEQ=f"s{k}") for k in range(n_good)]
    bad = [folder / f"{k * n_good // n_bad:05d}_bad.fits" for k in range(n_bad)]
    for k, path in enumerate(bad):
        path.write_bytes(spoil(good[k].read_bytes(), k % 10))
    return good, bad


def search(files: list[Path], out: Path, camera: str) -> tuple[int, str, pd.DataFrame]:
    """Exit code, output, and the candidates but for their groups, which may span files."""
    options = [
        "--model",
        "template-bank",
        "--instrument",
        camera,
        "--false-alarms-per-hour",
        "2",
        "--no-dask",
        "--quiet",
    ]
    result = CliRunner().invoke(
        cli.app, ["search", *map(str, files), "--out", str(out), *options], catch_exceptions=False
    )
    return result.exit_code, result.output, pd.read_parquet(out / "candidates.parquet")


def check_good_ones(folder: Path, camera: str, n_good: int, n_bad: int) -> None:
    (folder / "frames").mkdir()
    good, bad = write_files(folder / "frames", n_good, n_bad)
    code, _, alone = search(good, folder / "alone", camera)
    assert code == 0
    assert len(alone) >= n_good // 2
    code, output, among = search(sorted([*good, *bad]), folder / "among", camera)
    assert code == 1
    pd.testing.assert_frame_equal(among, alone)
    lines = [line for line in output.splitlines() if "_bad.fits: " in line]
    assert [line.split(": ")[0].strip() for line in lines] == [str(path) for path in bad]
    failures = pd.read_parquet(folder / "among" / "failures.parquet")
    assert sorted(failures["path"]) == sorted(map(str, bad))
    assert not failures["reason"].str.contains("Unreadable").any()


def test_twenty_good_files_are_what_they_are_without_ten_bad_ones(tmp_path, tiny_camera):
    check_good_ones(tmp_path, tiny_camera, 20, 10)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)  # some 5 minutes of processor time
def test_a_thousand_good_files_are_what_they_are_without_a_hundred_bad_ones(tmp_path, tiny_camera):
    check_good_ones(tmp_path, tiny_camera, 1000, 100)
