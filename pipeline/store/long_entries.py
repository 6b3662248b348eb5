"""Write a store entry of a file too long to calibrate at once: segment by segment, joined without a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.calibration.exposure import Calibrated, calibrate_exposure, exposure_shape
from shutterless.pipeline.calibration.streaks.shared_onsets import share_onsets
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.reading.segments import Segment, Workspace, read_exposures
from shutterless.pipeline.store.store import EntryWriter

_BY_ROW = ("row_residual", "row_offset_e")
_BY_BLOCK = ("baseline_e", "sigma_e")
_MEANS = ("noise", "row_correlation", "column_correlation")  # over live pixels
_TOTALS = ("live_pixel_rows", "above", "below")  # the first is exact, the others are scaled to own rows


def write_long_entry(
    segments: Sequence[Segment],
    writer: EntryWriter,
    origin: str,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Calibrate the segments of one file and write their rows as one entry.

    Parameters
    ----------
    segments : sequence of Segment
        From `shutterless.pipeline.reading.segments.cut_file`.
    writer : EntryWriter
        Open, for all rows of the file.
    origin : str
        Goes into the entry's description.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.

    Returns
    -------
    dict
        The entry's description.

    Raises
    ------
    FrameError
        If a part of the file cannot be read.
    """
    workspace, n_rows = Workspace(), segments[-1].spans[-1].last
    parts, live = [], []
    for segment in segments:
        (exposure,) = read_exposures(segment, workspace, instrument, dict(supplied or {}))
        residual = workspace.array("residual", exposure_shape(exposure.frame), np.float16)
        calibrated = calibrate_exposure(exposure.frame, residual)
        own = slice(max(segment.own[0], exposure.first) - exposure.first, min(segment.own[1], n_rows) - exposure.first)
        writer.write_rows(exposure.first + own.start, residual[:, :, own])
        parts.append(_without_residual(calibrated, own))
        live.append(int(np.count_nonzero(np.isfinite(residual[:, :, own]))))
    arrays, streaks, description = _join(parts, live, n_rows)
    return writer.finish(arrays, streaks, {**description, "origin": origin})


def _without_residual(calibrated: Calibrated, own: slice) -> Calibrated:
    """Keep the own rows of a segment's small arrays."""
    blocks = slice(own.start // BLOCK_ROWS, -(-own.stop // BLOCK_ROWS))
    arrays = dict(calibrated.arrays)
    arrays |= {name: arrays[name][own].copy() for name in _BY_ROW}
    arrays |= {name: arrays[name][:, :, blocks].copy() for name in _BY_BLOCK}
    return Calibrated(np.empty((0, 0, 0), np.float16), arrays, calibrated.streaks, calibrated.description)


def _join(
    parts: Sequence[Calibrated], live: Sequence[int], n_rows: int
) -> tuple[dict[str, np.ndarray], pd.DataFrame, dict[str, Any]]:
    """Arrays, streaks and description of the whole file.

    The stars are those of the longest segment, with the onsets of all segments.
    """
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in _BY_ROW}
    arrays |= {name: np.concatenate([part.arrays[name] for part in parts], axis=2) for name in _BY_BLOCK}
    noise = np.stack([part.arrays["column_noise"] for part in parts])
    arrays["column_noise"] = np.sqrt(_mean(noise.astype(np.float64) ** 2, live)).astype(np.float32)
    arrays["column_tails"] = np.sum([part.arrays["column_tails"] for part in parts], axis=0).astype(np.int32)
    descriptions = [part.description for part in parts]
    longest = int(np.argmax([description["n_rows"] for description in descriptions]))
    readouts = {str(k): Readout.from_dict(description["readout"]) for k, description in enumerate(descriptions)}
    streaks = share_onsets({str(k): part.streaks for k, part in enumerate(parts)}, readouts)[str(longest)]
    whole = {
        **descriptions[longest],
        "readout": descriptions[0]["readout"],
        "n_rows": n_rows,
        "n_streaks": len(streaks),
        **{name: float(_mean(np.array([d[name] for d in descriptions]), live)) for name in _MEANS},
        # a segment's counts times the share of its own rows
        **{
            name: round(
                sum(d[name] * n / max(d["live_pixel_rows"], 1) for d, n in zip(descriptions, live, strict=True))
            )
            for name in _TOTALS
        },
    }
    whole["masked_fraction"] = 1 - whole["live_pixel_rows"] / (whole["n_y"] * whole["n_columns"] * n_rows)
    return arrays, streaks, whole


def _mean(values: np.ndarray, weights: Sequence[int]) -> np.ndarray:
    """Weighted mean over axis 0, NaN where any is NaN: a column masked in one segment has no value."""
    return np.average(values, axis=0, weights=np.asarray(weights, dtype=np.float64))
