"""Frames and cubes: headers, pixels, the whole calibration, and good files beside bad ones."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import TINY_PROFILE
from fuzz.fits_inputs import CUBES, FRAMES, FitsInput, fits_inputs
from fuzz.surface import Surface, kept_folder
from fuzz.values import NUMBERS, TEXTS
from hypothesis import strategies as st
from tiny_frames import N_COLUMNS, SKY_E, add_pulse, expose, write_tiny

from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.reading.exposures import read_exposure, read_info
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.headers.cards import CARD_BYTES, HeaderError, mend_header
from shutterless.pipeline.reading.headers.dates import DateError, read_date, read_day_number
from shutterless.pipeline.reading.instruments import ProfileError
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import survey_files
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import SearchSettings

ERRORS = (FrameError, ProfileError)
_WHOLE_ROWS = 1200


def read_file(file: FitsInput, folder: Path) -> None:
    """Headers and every pixel."""
    path = file.write(folder)
    camera = camera_path() if file.base in FRAMES else None
    info = read_info(path, camera)
    assert info.n_pixels > 0
    for quadrant in info.readouts:
        exposure = read_exposure(path, quadrant, camera)
        if quadrant is not None:
            assert exposure.pixels_adu.shape == (info.n_rows, info.n_columns)
        else:
            assert exposure.flux_e.shape == (info.n_y, info.n_columns, info.n_rows)
            assert not np.isinf(exposure.flux_e).any()


def search_pixels(file: FitsInput, folder: Path) -> None:
    """From the file to triggers."""
    path = file.write(folder)
    camera = camera_path() if file.base in FRAMES else None
    for quadrant in read_info(path, camera).readouts:
        exposure = read_exposure(path, quadrant, camera)
        residual = np.zeros(exposure_shape(exposure), np.float16)
        triggers = find_triggers(calibrate_exposure(exposure, residual).amplifier("fuzzed"), 5.0)
        assert np.isfinite(triggers["snr"].to_numpy(dtype=float)).all()


def survey_beside(file: FitsInput, folder: Path) -> None:
    """A bad file between two good ones costs them nothing."""
    (folder / "a").mkdir()
    camera, kind = (camera_path(), "frame") if file.base in FRAMES else (None, "cube float32")
    good = [FitsInput(kind).write(folder / "a", stem) for stem in ("first", "last")]
    bad = file.write(folder / "a")
    alone, beside = (
        survey_files(paths, instrument=camera, executor=SerialExecutor()) for paths in (good, [good[0], bad, good[1]])
    )
    kept = [info for info in beside.infos if info.path != bad]
    assert [(info.path, info.n_rows, info.readouts) for info in kept] == [
        (info.path, info.n_rows, info.readouts) for info in alone.infos
    ]
    assert len(kept) + len({bad} & {info.path for info in beside.infos}) + beside.failures["path"].nunique() >= 3
    for reason in beside.failures["reason"]:
        assert not reason.startswith("UnreadableError"), reason
        assert bad.name in reason, reason


def search_beside(file: FitsInput, folder: Path) -> None:
    """Candidates of a good file are to the bit those without the bad one."""
    camera = camera_path()
    good = good_frame(_WHOLE_ROWS)
    expected = _search([good], folder / "alone", camera)
    found = _search([good, file.write(folder)], folder / "beside", camera)
    pd.testing.assert_frame_equal(found[found["file"] == good.name].reset_index(drop=True), expected)
    assert len(expected) > 0


def _search(files: list[Path], out: Path, camera: str) -> pd.DataFrame:
    found = search_files(
        files, reference="template-bank", out=out, settings=SearchSettings(false_alarms_per_hour=1.0),
        instrument=camera, executor=SerialExecutor(),
    )  # fmt: skip
    assert not found.failures["reason"].str.startswith("UnreadableError").any(), list(found.failures["reason"])
    return found.candidates


@cache
def good_frame(n_rows: int) -> Path:
    """A frame of the small camera with one bright pulse."""
    electrons = np.full((n_rows, 2 * N_COLUMNS), SKY_E)
    add_pulse(electrons, n_rows // 2, 20.3, 4.0, 30.0)
    return write_tiny(kept_folder(f"frame-{n_rows}") / "good.fits", expose(electrons, seed=2), 400)


def mend_cards(cards: list[tuple[str, str]], _: Path) -> None:
    """A mended header is mended, and as long as before."""
    raw = b"".join(f"{key:<8}{text}".encode("utf-8", "replace")[:CARD_BYTES].ljust(CARD_BYTES) for key, text in cards)
    mended = mend_header(raw + b"END".ljust(CARD_BYTES))
    assert len(mended) == len(raw) + CARD_BYTES
    assert mend_header(mended) == mended
    mended.decode("ascii")


def read_moment(values: tuple[Any, Any, Any], _: Path) -> None:
    """A date is one moment of our time, or none."""
    date, system, clock = values
    read = read_day_number(date, system) if isinstance(date, int | float) else read_date(date, system, clock)
    assert math.isfinite(read.jd)
    assert 1900 < read.utc.decimalyear < 2200


@cache
def camera_path() -> str:
    """The small camera's profile, at one path, since profiles are kept by their path."""
    path = kept_folder("camera") / "tiny.toml"
    path.write_text(TINY_PROFILE)
    return str(path)


def _prepare() -> None:
    camera_path()
    good_frame(_WHOLE_ROWS)


_CARDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["NAXIS", "NAXIS1", "BITPIX", "BLANK", "BZERO", "TFORM1", "TTYPE1", "HIERARCH", "COMMENT", "X"]
        ),
        st.sampled_from(["= ", "=", " = ", "  "]).flatmap(lambda sign: st.text(max_size=72).map(sign.__add__))
        | (NUMBERS | TEXTS).map(lambda value: f"= {value}"),
    ),
    max_size=6,
)
_DATE_TEXTS = (
    st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d{2}:?\d{2})?", fullmatch=True)
    | st.from_regex(r"(19|20)\d\d-[01]\d-[0-3]\d([T ][0-2]\d:[0-6]\d(:[0-6]\d)?)?", fullmatch=True)
    | TEXTS
    | NUMBERS
)
_SYSTEMS = st.sampled_from(["UTC", "TAI", "TT", "TDB", "GPS", "UTC(NIST)", "UT1", ""]) | TEXTS

SURFACES = (
    Surface("cards", _CARDS, mend_cards, (HeaderError,), share=22, n_short=100),
    Surface("dates", st.tuples(_DATE_TEXTS, _SYSTEMS, TEXTS), read_moment, (DateError,), share=15, n_short=80),
    Surface("frames", fits_inputs(FRAMES), read_file, ERRORS, "fuzzed", share=12, n_short=80, prepare=camera_path),
    Surface("cubes", fits_inputs(CUBES), read_file, ERRORS, "fuzzed", share=15, n_short=100),
    Surface("calibration", fits_inputs([*FRAMES, *CUBES]), search_pixels, ERRORS, "fuzzed", 0.6, 8, camera_path),
    Surface("beside", fits_inputs([*FRAMES, *CUBES]), survey_beside, (), "", 1.4, 15, camera_path),
    Surface("searches", fits_inputs(FRAMES), search_beside, (), share=0.02, n_short=1, prepare=_prepare),
)
