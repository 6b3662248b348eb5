"""Turn searches and the measured completeness of their detector into rates of events on the sky, or upper limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.table import Table

from shutterless.models.evaluation.metrics import wilson_interval
from shutterless.models.evaluation.rate_limits import completeness_error, empty_limit, feldman_cousins
from shutterless.pipeline.files import write_parquet, written_whole
from shutterless.workflows.comparison.counted_events import LIGHT_COLUMNS
from shutterless.workflows.comparison.evaluate import ALARMS
from shutterless.workflows.pages.formats import three_digits
from shutterless.workflows.pages.run_folder import in_groups
from shutterless.workflows.searching.found import FinishedSearch, check_apart, read_finished
from shutterless.workflows.settings.settings import LimitsSettings

POISSON, FELDMAN_COUSINS = "Poisson", "Feldman-Cousins"
NO_EVENT = "no event of the evaluation"
_RATE = u.deg**-2 / u.day
LIMIT_COLUMNS: dict[str, tuple[str, u.UnitBase | None]] = {
    "duration_low_s": ("shortest event of the cell", u.s),
    "duration_high_s": ("longest event of the cell", u.s),
    "mag_low": ("magnitude of the brightest event of the cell, of its light at the peak", u.mag),
    "mag_high": ("magnitude of the faintest event of the cell", u.mag),
    "n_found": ("groups of candidates that were found", None),
    "background": ("false alarms expected among them", None),
    "background_error": ("its standard error", None),
    "n_injected": ("events of the evaluation in the cell, a mean over the searched amplifiers", None),
    "n_recovered": ("those of them with a score above the threshold of the search", None),
    "completeness": ("share that is found", None),
    "completeness_low": ("lower end of its 95 % Wilson interval", None),
    "completeness_high": ("upper end of its 95 % Wilson interval", None),
    "exposure": ("area of sky times live time", u.deg**2 * u.day),
    "rate": ("events without the expected false alarms", _RATE),
    "rate_low": ("lower end of the interval", _RATE),
    "rate_high": ("upper end of the interval; the upper limit where nothing was found", _RATE),
    "method": ("of the interval", None),
    "note": ("why there is no rate", None),
}


class LimitsError(ValueError):
    """Searches and an evaluation from which no rate follows."""


@dataclass(frozen=True)
class RateLimits:
    """Rates and limits of some searches.

    Parameters
    ----------
    table : DataFrame
        A row for each cell of duration and magnitude; `LIMIT_COLUMNS`.
    exposure_deg2_day : float
        Area times live time of all searches.
    kinds : tuple of str
        Kinds of events whose completeness counts.
    expected_false_alarms : float
        That the searches themselves state.
    confidence : float
    notes : tuple of str
        What was left out or differs, for the user.
    """

    table: pd.DataFrame
    exposure_deg2_day: float
    kinds: tuple[str, ...]
    expected_false_alarms: float
    confidence: float
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> pd.DataFrame:
        """Cells with a rate or a limit."""
        return self.table[self.table["rate_high"].notna()]

    def text(self) -> str:
        """Return what was searched and the lowest limit, for a terminal."""
        lines = [f"{self.exposure_deg2_day:.3g} deg² day searched; {len(self.known)} of {len(self.table)} cells known"]
        if len(self.known):
            best = self.known.loc[self.known["rate_high"].idxmin()]
            lines.append(
                f"lowest limit: {three_digits(best['rate_high'])} per deg² and day ({100 * self.confidence:g} %), "
                f"events of {best['duration_low_s']:g} to {best['duration_high_s']:g} s, "
                f"magnitude {best['mag_low']:g} to {best['mag_high']:g}"
            )
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class _Cells:
    """Borders of the cells."""

    durations: np.ndarray
    magnitudes: np.ndarray

    @classmethod
    def of(cls, settings: LimitsSettings) -> _Cells:
        return cls(np.asarray(settings.durations_s), np.asarray(settings.magnitudes))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.durations) - 1, len(self.magnitudes) - 1

    def place(self, table: pd.DataFrame, zero_point: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cell of each row (duration, magnitude), and whether it is in one; ``flux_e_s`` is seen with a zero point."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mag = zero_point - 2.5 * np.log10(table["flux_e_s"].to_numpy(dtype=np.float64))
        duration = table["duration_s"].to_numpy(dtype=np.float64)
        i = np.searchsorted(self.durations, duration, side="right") - 1
        j = np.searchsorted(self.magnitudes, mag, side="right") - 1
        inside = np.isfinite(mag) & (i >= 0) & (i < self.shape[0]) & (j >= 0) & (j < self.shape[1])
        return i, j, inside


@dataclass(frozen=True)
class _Evaluation:
    """Brightenings among the events and the false alarms of an evaluation, and the time the alarms were counted in."""

    folder: Path
    events: pd.DataFrame
    alarms: pd.DataFrame
    pixel_rows: dict[str, float]

    @classmethod
    def read(cls, folder: Path, kinds: Sequence[str]) -> _Evaluation:
        folder = Path(folder)
        missing = [name for name in ("events.parquet", ALARMS, "summary.parquet") if not (folder / name).is_file()]
        if missing:
            raise LimitsError(f"{folder} has no {missing[0]}: name a folder that this version of `evaluate` wrote")
        events, alarms = pd.read_parquet(folder / "events.parquet"), pd.read_parquet(folder / ALARMS)
        if not set(LIGHT_COLUMNS) <= set(events):
            raise LimitsError(f"{folder / 'events.parquet'} has no flux_e_s: an older version wrote it; evaluate again")
        events = events[events["sign"] > 0]
        unknown = sorted(set(kinds) - set(events["kind"]))
        if unknown:
            known = ", ".join(sorted(events["kind"].unique()))
            raise LimitsError(f"{folder} has no brightening of kind {unknown[0]!r}; it has {known or 'none'}")
        events = events[events["kind"].isin(kinds)] if kinds else events
        if events["flux_e_s"].notna().sum() == 0:
            raise LimitsError(
                f"{folder} has no brightening with a duration and an amplitude, so completeness is not known; evaluate "
                "on frames of `simulate` or `inject`"
            )
        hour = json.loads((folder / "eta.json").read_text(encoding="utf-8"))["pixel_rows_per_hour"]
        hours = pd.read_parquet(folder / "summary.parquet").set_index("detector")["live_hours"]
        return cls(folder, events, alarms[alarms["sign"] > 0], (hours * hour).to_dict())

    def detector(self, search: FinishedSearch, named: str | None) -> str:
        """Name of the detector of a search in this evaluation."""
        reference = str(search.record["model"])
        for name in (named,) if named else (reference, Path(reference).name, reference.replace("/", "-")):
            if name in self.pixel_rows:
                return str(name)
        raise LimitsError(
            f"{self.folder} judged {', '.join(self.pixel_rows)}, not {named or reference}, with which {search.folder} "
            "was searched: evaluate that model, or name the same one by --detector"
        )


def measure_limits(
    searches: Sequence[Path],
    evaluation: Path,
    settings: LimitsSettings,
    *,
    detector: str | None = None,
    kinds: Sequence[str] = (),
) -> RateLimits:
    """Compute rates of events, or upper limits, from finished searches.

    Parameters
    ----------
    searches : sequence of Path
        Folders of `shutterless search`, of different frames.
    evaluation : Path
        Folder of `shutterless evaluate`, of frames as deep as those that were searched.
    settings : LimitsSettings
    detector : str, optional
        Name of the searches' detector in the evaluation, where it is another one.
    kinds : sequence of str
        Kinds of events whose completeness counts; all brightenings of the evaluation if empty.

    Returns
    -------
    RateLimits

    Raises
    ------
    LimitsError
        If a detector was not evaluated, or area, time or zero point are not known.
    NoSearchError
        If a folder holds no finished search.
    SearchedTwiceError
        If a frame was searched twice.

    Notes
    -----
    The rate of a cell is ``(n - b) / (exposure x completeness)``. Events of the evaluation count as found where their
    score reaches the threshold of a searched amplifier, and stand in the cell that their electrons have with its zero
    point; amplifiers count by their area times live time. False alarms of the evaluation count the same, by live time.
    Where none was counted, none is subtracted: the limit is then weaker, never too strong.
    """
    judged, cells = _Evaluation.read(evaluation, kinds), _Cells.of(settings)
    found = [read_finished(folder) for folder in searches]
    check_apart(found)
    notes, parts = [], []
    for search in found:
        amplifiers, lost = _usable(search)
        notes += lost
        parts.append((search, amplifiers, judged.detector(search, detector)))
    exposure = sum(float(amplifiers["deg2_hours"].sum()) for _, amplifiers, _ in parts) / 24
    totals = {name: np.zeros(cells.shape) for name in ("n_found", "background", "variance", "injected", "recovered")}
    for search, amplifiers, name in parts:
        totals["n_found"] += _count_found(search, amplifiers, cells)
        for key, counted in _count_judged(judged, name, amplifiers, cells, exposure).items():
            totals[key] += counted
    rows = [
        {
            "duration_low_s": duration[0],
            "duration_high_s": duration[1],
            "mag_low": mag[0],
            "mag_high": mag[1],
            **_rate_of(*(round(float(totals[name][i, j]), 9) for name in totals), exposure=exposure, settings=settings),
        }
        for (i, duration), (j, mag) in product(
            enumerate(pairwise(settings.durations_s)), enumerate(pairwise(settings.magnitudes))
        )
    ]
    table = pd.DataFrame(rows)[list(LIMIT_COLUMNS)].astype({"n_found": "int64"})
    expected = sum(float(search.record["rates"]["expected_false_alarms"]) for search in found)
    used = tuple(sorted(judged.events["kind"].unique()))
    return RateLimits(table, exposure, used, expected, settings.confidence, tuple(notes))


def write_limits(limits: RateLimits, out: Path) -> None:
    """Write ``limits.parquet``, ``limits.csv`` and ``limits.ecsv``, with units and descriptions."""
    out = Path(out)
    about = {
        name: {"description": text, **({} if unit is None else {"unit": unit.to_string()})}
        for name, (text, unit) in LIMIT_COLUMNS.items()
    }
    write_parquet(limits.table, out / "limits.parquet", columns=about)
    table = Table.from_pandas(limits.table)
    for name, (text, unit) in LIMIT_COLUMNS.items():
        table[name].unit, table[name].description = unit, text
    table.meta |= {"confidence": limits.confidence, "kinds": list(limits.kinds), "notes": list(limits.notes)}
    for name, kind in {"limits.csv": "ascii.csv", "limits.ecsv": "ascii.ecsv"}.items():
        with written_whole(out / name) as partial:
            table.write(partial, format=kind)


def _usable(search: FinishedSearch) -> tuple[pd.DataFrame, list[str]]:
    """Amplifiers with a zero point, and lines about those that have none."""
    amplifiers = search.amplifiers
    if "deg2_hours" not in amplifiers:
        raise LimitsError(
            f"{search.folder} does not say how much sky it saw: an older version wrote it; search again with --resume"
        )
    if amplifiers["quadrant"].isna().any():
        raise LimitsError(f"{search.folder} holds image cubes; rates are known for continuous readout alone")
    known = amplifiers[amplifiers["zero_point_mag"].notna()]
    if known.empty or not known["deg2_hours"].sum() > 0:
        raise LimitsError(
            f"{search.folder} has no amplifier with a zero point and live time: search again with --set MAGZP1S=25, "
            "the magnitude of 1 electron per second"
        )
    lost = len(amplifiers) - len(known)
    return known, [f"{search.folder}: {lost} amplifiers without a zero point are left out"] if lost else []


def _count_found(search: FinishedSearch, amplifiers: pd.DataFrame, cells: _Cells) -> np.ndarray:
    """Groups of candidates in each cell, at the place of their strongest."""
    candidates = in_groups(search.candidates)
    candidates = candidates[candidates["leads"] & (candidates["snr"] > 0)]
    camera = FinishedSearch(search.folder, search.record, search.candidates, amplifiers).by_file()
    camera = camera[["file", "quadrant", "zero_point_mag", "row_rate_hz"]].drop_duplicates(["file", "quadrant"])
    placed = candidates.merge(camera, on=["file", "quadrant"], how="inner")
    placed = placed.assign(flux_e_s=placed["amplitude_e"] * placed["row_rate_hz"])
    counts = np.zeros(cells.shape)
    i, j, inside = cells.place(placed, placed["zero_point_mag"].to_numpy())
    np.add.at(counts, (i[inside], j[inside]), 1)
    return counts


def _count_judged(
    judged: _Evaluation, detector: str, amplifiers: pd.DataFrame, cells: _Cells, exposure: float
) -> dict[str, np.ndarray]:
    """Events and false alarms of the evaluation in each cell, as the amplifiers of a search would have found them."""
    events = judged.events[judged.events["detector"] == detector]
    alarms = judged.alarms[judged.alarms["detector"] == detector].reset_index(drop=True)
    injected, recovered = np.zeros(cells.shape), np.zeros(cells.shape)
    per_alarm = np.zeros((len(alarms), *cells.shape))
    live = amplifiers["live_hours"] * amplifiers["pixel_rows_per_hour"] / judged.pixel_rows[detector]
    weights = amplifiers.assign(sky=amplifiers["deg2_hours"] / 24 / exposure, live=live)
    alike = weights.groupby(["zero_point_mag", "threshold"])[["sky", "live"]].sum()
    for (zero_point, threshold), (sky, live) in zip(alike.index, alike.to_numpy(), strict=True):
        i, j, inside = cells.place(events, zero_point)
        passes = inside & (events["score"].to_numpy(dtype=np.float64) >= threshold)
        np.add.at(injected, (i[inside], j[inside]), sky)
        np.add.at(recovered, (i[passes], j[passes]), sky)
        i, j, inside = cells.place(alarms, zero_point)
        (rows,) = np.nonzero(inside & (alarms["score"].to_numpy(dtype=np.float64) >= threshold))
        per_alarm[rows, i[rows], j[rows]] += live
    background, variance = per_alarm.sum(axis=0), (per_alarm**2).sum(axis=0)
    return {"background": background, "variance": variance, "injected": injected, "recovered": recovered}


def _rate_of(
    n_found: float, background: float, variance: float, injected: float, recovered: float, *, exposure: float,
    settings: LimitsSettings,
) -> dict[str, Any]:  # fmt: skip
    """Rate and interval of a cell, or the reason why there is none."""
    row: dict[str, Any] = {
        "n_found": n_found,
        "background": background,
        "background_error": np.sqrt(variance),
        "n_injected": injected,
        "n_recovered": recovered,
        "exposure": exposure,
        **dict.fromkeys(("completeness", "completeness_low", "completeness_high"), np.nan),
        **dict.fromkeys(("rate", "rate_low", "rate_high"), np.nan),
        "method": "",
        "note": "",
    }
    if not injected:
        return row | {"note": NO_EVENT}
    low, high = wilson_interval(recovered, injected)
    row |= {"completeness": recovered / injected, "completeness_low": low, "completeness_high": high}
    if injected < settings.least_events:
        return row | {"note": f"{injected:.3g} events of the evaluation, {settings.least_events} needed"}
    if not recovered:
        return row | {"note": f"none of {injected:.3g} events of the evaluation found"}
    error, effective = completeness_error(recovered, injected), exposure * recovered / injected
    if n_found:
        counts = feldman_cousins(
            int(n_found), background, background_error=np.sqrt(variance), efficiency_error=error,
            confidence=settings.confidence,
        )  # fmt: skip
    else:
        counts = 0.0, empty_limit(error, settings.confidence)
    return row | {
        "rate": max(n_found - background, 0.0) / effective,
        "rate_low": counts[0] / effective,
        "rate_high": counts[1] / effective,
        "method": FELDMAN_COUSINS if n_found else POISSON,
    }
