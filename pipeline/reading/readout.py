"""Compute when each row of an amplifier was read, and when its light may have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.time import Time, TimeDelta
from astropy.utils import iers

# UTC needs leap seconds only, which ship with astropy: no table is downloaded
iers.conf.auto_download = False


# of ZTF, on which detectors were measured: 3,072 columns at 300 rows/s; and, by convention, of a stack of images, which
# has no columns that are read for an hour, so that a rate of false alarms means as many trials
PIXEL_ROWS_PER_HOUR = 3072 * 300 * 3600
_POSITIVE = ("row_rate_hz", "gain_e_per_adu", "saturation_adu", "pixel_scale_arcsec", "seeing_arcsec")


@dataclass(frozen=True, eq=False)
class RowTimes:
    """Times of rows that are not at a constant rate, such as those of an archive's cadences.

    Parameters
    ----------
    seconds : ndarray of float64, shape (t,)
        Seconds since row 0 on the observer's clock, rising.
    archive : ndarray of float64, shape (t,)
        The archive's own value, in the unit and scale that `Readout.time_scale` names.
    """

    seconds: np.ndarray
    archive: np.ndarray


@dataclass(frozen=True)
class Readout:
    """Clocks, electronics and optics of one amplifier in one file.

    Parameters
    ----------
    row_rate_hz : float
        Rows clocked per second.
    gain_e_per_adu, read_noise_e, saturation_adu : float
        Gain (electrons per ADU), read noise (electrons, rms) and saturation level (ADU).
    n_transit : int
        Rows from the far edge of the detector to the serial register: every row collects light for
        ``n_transit / row_rate_hz`` seconds once the sky ramp is over. 0 for image cubes: no charge moves, and the read
        time of a row is the middle of its exposure.
    first_row : int or None
        Sequence row number of the file's first row in read order; None means steady state (no ramp) and unknown.
    shutter_open_utc : str or None
        UTC of sequence row 0 (ISO 8601); None means that no UTC can be given.
    sequence : str
        Name of the uninterrupted sequence the file belongs to.
    ccd, quadrant : int or None
        Detector and amplifier, both counted from 1; None for image cubes.
    band : str
        Filter name.
    zero_point_mag : float or None
        Magnitude of a source of 1 e-/s.
    pixel_scale_arcsec, seeing_arcsec : float
        Pixel scale (arcsec/pixel) and seeing (FWHM, arcsec).
    supplied : tuple of (str, str)
        Header values given by the user instead of the file, recorded with the results.
    close_row : int or None
        Sequence row that was read when the shutter closed; None if it stayed open or if this is unknown.
    row_times : RowTimes or None
        Times of the file's rows if ``row_rate_hz`` does not give them; neither compared nor stored with the rest.
    time_scale : str
        Unit and scale of the archive's own times, such as ``BJD - 2454833 (TDB)``; empty if there are none.
    """

    row_rate_hz: float
    gain_e_per_adu: float
    read_noise_e: float
    saturation_adu: float
    n_transit: int
    first_row: int | None = None
    shutter_open_utc: str | None = None
    sequence: str = ""
    ccd: int | None = None
    quadrant: int | None = None
    band: str = ""
    zero_point_mag: float | None = None
    pixel_scale_arcsec: float = 1.0
    seeing_arcsec: float = 2.0
    supplied: tuple[tuple[str, str], ...] = ()
    close_row: int | None = None
    row_times: RowTimes | None = field(default=None, compare=False, repr=False)
    time_scale: str = ""

    @property
    def transit_s(self) -> float:
        """Seconds that a charge packet takes from the far edge to the register."""
        return self.n_transit / self.row_rate_hz

    @property
    def psf_sigma_px(self) -> float:
        """Width of a Gaussian point-spread function of the header's seeing (pixels)."""
        return self.seeing_arcsec / self.pixel_scale_arcsec / gaussian_sigma_to_fwhm

    def rows_of(self, seconds: float, least: int = 1) -> int:
        """Rows that are read in so many seconds, to the nearest; ``least`` where these are fewer."""
        return max(round(seconds * self.row_rate_hz), least)

    def pixel_rows_per_hour(self, n_columns: int) -> float:
        """Pixels times rows that an amplifier of so many columns reads in an hour."""
        return n_columns * self.row_rate_hz * 3600

    def n_ramp_rows(self, n_rows: int) -> int:
        """Number of the file's first rows with the sky ramp (sequence row below ``n_transit``)."""
        if self.first_row is None:
            return 0
        return int(np.clip(self.n_transit - self.first_row, 0, n_rows))

    def steady_rows(self, n_rows: int) -> slice:
        """File rows exposed to the sky for a whole transit, neither in the ramp nor after the closing; may be none."""
        start, stop = self.n_ramp_rows(n_rows), n_rows
        if self.close_row is not None and self.first_row is not None:
            stop = int(np.clip(self.close_row - self.first_row, start, n_rows))
        return slice(start, stop)

    def seconds(self, row: Any) -> np.ndarray:
        """Read time of file rows, in seconds since the shutter opened (since file row 0 without ``first_row``).

        With ``row_times``, times of fractional rows are interpolated, and rows beyond the ends follow at the row rate.
        """
        if self.row_times is not None:
            return _interpolate(self.row_times.seconds, row, 1 / self.row_rate_hz)
        return (np.asarray(row, dtype=np.float64) + (self.first_row or 0)) / self.row_rate_hz

    def archive_time(self, row: Any) -> np.ndarray:
        """Read time of file rows in the archive's own unit and scale (``time_scale``), float64; NaN where it has none.

        Times of fractional rows are interpolated; rows beyond the ends follow at the mean step.
        """
        if self.row_times is None:
            return np.full(np.shape(row), np.nan)
        archive = self.row_times.archive
        return _interpolate(archive, row, (archive[-1] - archive[0]) / max(len(archive) - 1, 1))

    def from_row(self, start: int, stop: int) -> Readout:
        """Readout of rows ``start`` to ``stop`` of the file as a file of their own."""
        times = self.row_times
        if times is not None:
            times = RowTimes(times.seconds[start:stop], times.archive[start:stop])
        first_row = None if self.first_row is None else self.first_row + start
        return replace(self, first_row=first_row, row_times=times)

    def read_utc(self, row: Any) -> np.ndarray:
        """Read time of file rows as ISO 8601 UTC strings (µs); empty strings if no UTC is known.

        Notes
        -----
        Row ``k`` of a sequence is read at ``shutter_open + k / row_rate`` in every file of the sequence. Seconds are
        added on a uniform scale, so a leap second inside a sequence is counted.
        """
        (utc,) = read_utc_of([self], [row])
        return utc

    def has_begun(self, row: Any, y0: Any) -> np.ndarray:
        """Whether the streaks of stars at detector rows ``y0`` are in file rows; true where either is unknown.

        A star's first light is read in sequence row ``y0``.
        """
        y0 = np.asarray(y0, dtype=np.float64)
        if self.first_row is None or not self.n_transit:
            return np.ones(np.broadcast(np.asarray(row), y0).shape, dtype=bool)
        return ~(np.asarray(row) + self.first_row < y0)

    def event_row_range(self, row: Any, y0: Any = np.nan) -> tuple[np.ndarray, np.ndarray]:
        """Earliest and latest moment at which the light of file rows can have arrived, given as the row read then.

        Parameters
        ----------
        row : array_like, shape (n,)
            File rows in read order, fractions allowed.
        y0 : array_like, shape (n,)
            Detector row of the source, NaN where unknown; ignored for image cubes.

        Returns
        -------
        earliest, latest : ndarray of float64, shape (n,)
            Equal where ``y0`` is known, else one transit apart, or less if the shutter was closed for a part of it.
            Rows before the file's first are negative.

        Notes
        -----
        Light that falls ``y`` rows from the register at time ``t`` is read in row ``k = v t + y``. So
        ``t = (k - y0) / v``, and for unknown ``0 <= y0 < n_transit`` it lies in the transit before the read time.
        """
        row = np.asarray(row, dtype=np.float64)
        y0 = np.broadcast_to(np.asarray(y0 if self.n_transit else np.nan, dtype=np.float64), row.shape)
        own = row - y0
        earliest, latest = row - self.n_transit, row
        if self.first_row is not None:
            opens = -float(self.first_row)
            closes = np.inf if self.close_row is None else opens + self.close_row
            # not later than the read time: cadence 0 of a cube collects light before its middle, which is second 0
            earliest = np.clip(earliest, np.minimum(row, opens), closes)
            latest = np.minimum(latest, closes)
        return np.where(np.isnan(own), earliest, own), np.where(np.isnan(own), latest, own)

    def transit_share(self, start: int, stop: int) -> float:
        """Mean share of a transit in which file rows collected light: 1 but for the ramp and after the closing.

        A pixel of a cube, to which light does not come from elsewhere, has 1.
        """
        if not self.n_transit or stop <= start:
            return 1.0
        earliest, latest = self.event_row_range(np.arange(start, stop))
        return float(np.mean(latest - earliest) / self.n_transit)

    def event_utc_range(self, row: Any, y0: Any = np.nan) -> tuple[np.ndarray, np.ndarray]:
        """Earliest and latest UTC of the light of file rows, shape (n,) each; see `event_row_range`."""
        earliest, latest = self.event_row_range(row, y0)
        return self.read_utc(earliest), self.read_utc(latest)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, ``row_times`` left out; `from_dict` reads them back."""
        values = asdict(replace(self, row_times=None))
        del values["row_times"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Readout:
        """Rebuild a readout from `to_dict`.

        Raises
        ------
        ValueError
            If the values are not those of a readout.
        """
        known = {f.name: str(f.type) for f in fields(cls) if f.name != "row_times"}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"readout has unknown fields {unknown}; this version knows {sorted(known)}")
        for name, kind in known.items():
            if name in values and name != "supplied":
                _check_value(name, kind, values[name])
        supplied = tuple((str(key), str(value)) for key, value in values.get("supplied", ()))
        return cls(**{**values, "supplied": supplied})


def _check_value(name: str, kind: str, value: Any) -> None:
    """Refuse a value that is not of a kind such as ``float`` or ``int | None``, or is out of range."""
    if value is None and kind.endswith("None"):
        return
    if kind.startswith("str"):
        is_fine = isinstance(value, str)
    else:
        is_number = isinstance(value, int if kind.startswith("int") else int | float) and not isinstance(value, bool)
        is_fine = is_number and (abs(value) < 2**63 or (name, value) == ("saturation_adu", np.inf))  # no level is known
    if not is_fine:
        raise ValueError(f"readout has {name} = {value!r}, which is no {kind}")
    if (name in _POSITIVE and value <= 0) or (name == "n_transit" and value < 0):
        raise ValueError(f"readout has {name} = {value!r}, which is not positive")


def _interpolate(values: np.ndarray, row: Any, step: float) -> np.ndarray:
    """Interpolate values at fractional rows; beyond the ends they change by ``step`` a row."""
    row = np.asarray(row, dtype=np.float64)
    inside = np.clip(row, 0, len(values) - 1)
    return np.asarray(np.interp(inside, np.arange(len(values)), values) + (row - inside) * step)


def read_utc_of(readouts: Sequence[Readout], rows: Sequence[Any]) -> list[np.ndarray]:
    """`Readout.read_utc` of several readouts at once, for rows of each: astropy takes as long for one row as for many.

    Parameters
    ----------
    readouts : sequence of Readout
    rows : sequence of array_like
        File rows of each readout.
    """
    seconds = [np.atleast_1d(readout.seconds(row)) for readout, row in zip(readouts, rows, strict=True)]
    opened = [None if readout.first_row is None else readout.shutter_open_utc for readout in readouts]
    found = [np.full(one.shape, "", dtype="<U26") for one in seconds]
    known = [k for k, start in enumerate(opened) if start is not None and seconds[k].size]
    if known:
        starts = Time([opened[k] for k in known], scale="utc", format="isot", precision=6).tai
        sizes = [seconds[k].size for k in known]
        since = TimeDelta(np.concatenate([seconds[k].ravel() for k in known]), format="sec")
        utc = (starts[np.repeat(np.arange(len(known)), sizes)] + since).utc.isot
        for k, part in zip(known, np.split(utc, np.cumsum(sizes)[:-1]), strict=True):
            found[k] = part.reshape(seconds[k].shape)
    return found
