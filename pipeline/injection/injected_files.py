"""Tables of truth and stars, paths and seeds for copies of files with injected events, for frames and cubes."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.astrometry.pointing import AmplifierSky
from shutterless.pipeline.events.events import magnitude_change
from shutterless.pipeline.injection.amplifiers import Injection
from shutterless.pipeline.reading.fits_files import FrameError, frame_stem
from shutterless.pipeline.simulation.truth import STAR_COLUMNS, TRUTH_COLUMNS


@dataclass(frozen=True)
class InjectedFile:
    """A copy with injected events, its truth and streaks (`TRUTH_COLUMNS`, `STAR_COLUMNS`), and unchanged quadrants.

    ``skipped`` maps quadrants that cannot be read or calibrated to the reason.
    """

    path: Path
    truth: pd.DataFrame
    stars: pd.DataFrame
    skipped: Mapping[int | None, str]


def target_of(path: Path, out: str | Path) -> Path:
    """Path of a file's copy in a folder.

    Raises
    ------
    FrameError
        If the copy would replace the file.
    """
    target = Path(out) / path.name
    if target.resolve() == path.resolve():
        raise FrameError(f"{path}: the copy with events would replace it; choose another folder than {out}")
    return target


def seeds_of(seed: int, path: Path, quadrant: int | None) -> list[int]:
    """Seeds of the random numbers of one amplifier of one file."""
    digest = hashlib.blake2b(frame_stem(path).encode(), digest_size=8).digest()
    return [seed, int.from_bytes(digest, "little"), quadrant or 0]


def truth_table(
    injections: Sequence[Injection], amplifier: Amplifier, path: Path, sky: AmplifierSky | None = None
) -> pd.DataFrame:
    """Truth of the injections of one amplifier: `TRUTH_COLUMNS`, and ``y`` in a stack of images.

    An event on a star whose row is known is at the place that the header gives for it; NaN otherwise.
    """
    readout, rows = amplifier.readout, []
    stars = _with_positions(amplifier.streaks.set_index("streak_id"), sky)[["ra", "dec"]]
    place = frame_stem(path) if readout.quadrant is None else f"{frame_stem(path)}_q{readout.quadrant}"
    for index, injection in enumerate(injections):
        event, (start, stop, peak) = injection.event, injection.rows
        rows.append(
            {
                "event_id": f"{place}_i{index:04d}",
                "kind": event.kind,
                "is_event": True,
                "file": path.name,
                "ccd": readout.ccd,
                "quadrant": readout.quadrant,
                "x": event.x,
                "y": event.y,
                "row_start": start,
                "row_stop": stop,
                "row_peak": peak,
                "duration_s": (stop - start + 1) / readout.row_rate_hz,
                "amplitude_e": event.amplitude_e,
                "sign": int(np.sign(event.amplitude_e)),
                "rho": injection.rho,
                "star_id": event.star_id,
                "star_mag": event.star_mag,
                "delta_mag": magnitude_change(event, injection.star_flux_e_row),
                **(stars.loc[event.star_id].to_dict() if event.star_id in stars.index else {}),
            }
        )
    return _typed(pd.DataFrame(rows, columns=_with_y(TRUTH_COLUMNS, amplifier)), TRUTH_COLUMNS)


def true_star_table(amplifier: Amplifier, path: Path, sky: AmplifierSky | None = None) -> pd.DataFrame:
    """Stars of one amplifier: `STAR_COLUMNS`, and ``y`` in a stack of images; positions as the header gives them."""
    readout, columns = amplifier.readout, _with_y(STAR_COLUMNS, amplifier)
    table = _with_positions(amplifier.streaks.rename(columns={"streak_id": "star_id"}), sky)
    return _typed(table.assign(file=path.name, ccd=readout.ccd, quadrant=readout.quadrant)[columns], STAR_COLUMNS)


def _with_positions(stars: pd.DataFrame, sky: AmplifierSky | None) -> pd.DataFrame:
    """Stars with ``ra`` and ``dec``, NaN without a pointing or a row."""
    if sky is None:
        return stars.assign(ra=np.nan, dec=np.nan)
    known = stars["y0"].notna().to_numpy()
    place = sky.to_sky(stars["x"], stars["y0"].fillna(0.0))
    return stars.assign(ra=np.where(known, place.ra.deg, np.nan), dec=np.where(known, place.dec.deg, np.nan))


def _with_y(columns: Mapping[str, str], amplifier: Amplifier) -> list[str]:
    return [*columns, "y"] if amplifier.n_y > 1 else list(columns)


def _typed(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Give columns their types; CCD and quadrant are null if the file does not name them."""
    nullable = {name: "Int64" for name in ("ccd", "quadrant") if table[name].isna().any()}
    return table.astype({**columns, **nullable})


def put_in_place(partial: Path, target: Path) -> None:
    """Move a finished copy to its place, packed if its suffix is that of packed files."""
    if target.name.endswith(".gz"):
        packed = partial.with_name("copy.fits.gz")
        with partial.open("rb") as plain, packed.open("wb") as sink, gzip.GzipFile("", "wb", 6, sink, 0) as archive:
            shutil.copyfileobj(plain, archive)
        partial = packed
    partial.replace(target)
