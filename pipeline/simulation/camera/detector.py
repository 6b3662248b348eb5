"""Model the faults of one amplifier: bias structure, hot columns, traps and dropped rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

# Rates and strengths are choices that a user can change or should measure, since there are no statistics of ZTF's
# detectors in continuous readout. They give a few bad columns per amplifier, as on science-grade CCDs.
_PATTERN_E = 2.0  # rms of white noise over columns, and of waves of a few hundred columns
_PATTERN_WAVE_COLUMNS = 300.0
_HOT_E, _BLINKING_SHARE, _DWELL_S = (5.0, 200.0), 0.4, (0.05, 5.0)
_TRAP_CAPACITY_E, _TRAP_SHARE, _TRAP_RELEASE_S = (50.0, 500.0), (0.003, 0.03), (5.0 / 300, 100.0 / 300)
_LONGEST_DROP = 20
# rows of telegraph noise from one generator
_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Blinking:
    """Random telegraph noise: on and off for exponentially distributed times.

    Parameters
    ----------
    key : int
        Seed of the switching.
    on_s, off_s : float
        Mean time in each state.

    Notes
    -----
    At the events of a Poisson process of rate ``1/on_s + 1/off_s`` the state is drawn anew; it is on with probability
    ``on_s / (on_s + off_s)``, whatever it was. This is a stationary two-state Markov process with the given dwell
    times. The state at any time follows from the last event before it, so files join in whatever order they are made.
    """

    key: int
    on_s: float
    off_s: float

    def states(self, first_row: int, n_rows: int, row_rate_hz: float) -> np.ndarray:
        """Whether it is on in consecutive sequence rows, bool, shape (t,)."""
        first_chunk, last_chunk = first_row // _CHUNK_ROWS, (first_row + n_rows - 1) // _CHUNK_ROWS
        events = [self._events(chunk, row_rate_hz) for chunk in range(first_chunk, last_chunk + 1)]
        while not len(events[0][0]) or events[0][0][0] > first_row:
            first_chunk -= 1
            events.insert(0, self._events(first_chunk, row_rate_hz))
        rows, states = (np.concatenate(values) for values in zip(*events, strict=True))
        last_before = np.searchsorted(rows, first_row + np.arange(n_rows), side="right") - 1
        return np.asarray(states[last_before])

    def _events(self, chunk: int, row_rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and states drawn, of the events within one chunk of rows."""
        rng = np.random.default_rng([self.key, abs(chunk), int(chunk < 0)])
        n = rng.poisson((1 / self.on_s + 1 / self.off_s) * _CHUNK_ROWS / row_rate_hz)
        rows = chunk * _CHUNK_ROWS + np.sort(rng.uniform(0, _CHUNK_ROWS, n))
        return rows, rng.random(n) < self.on_s / (self.on_s + self.off_s)


@dataclass(frozen=True)
class HotColumn:
    """A hot pixel, which adds dark charge to every row that is clocked over it, in its own column only.

    Parameters
    ----------
    column : int
    level_e : float
        Mean electrons in each row.
    blinking : Blinking or None
        None if it is steady.
    """

    column: int
    level_e: float
    blinking: Blinking | None = None

    def light_e(self, sequence_rows: Sequence[int] | np.ndarray, row_rate_hz: float) -> np.ndarray:
        """Mean electrons in consecutive rows, shape (t,)."""
        if self.blinking is None:
            return np.full(len(sequence_rows), self.level_e)
        return self.level_e * self.blinking.states(int(sequence_rows[0]), len(sequence_rows), row_rate_hz)


@dataclass(frozen=True)
class Trap:
    """A trap in one column, beside the register so that every row is clocked over it.

    Parameters
    ----------
    column : int
    capacity_e : float
        Largest charge that it holds.
    share : float
        Share of each charge packet that it captures while it has room.
    release_rows : float
        Rows after which it holds 1/e of its charge.
    """

    column: int
    capacity_e: float
    share: float
    release_rows: float

    @property
    def released(self) -> float:
        """Share of its charge that it releases in one row."""
        return float(-np.expm1(-1 / self.release_rows))

    def filling_e(self, packet_e: float) -> float:
        """Charge that it holds if all packets are equal, when it releases as much as it captures."""
        return min(self.share * packet_e / self.released, self.capacity_e)


@dataclass(frozen=True)
class DetectorFaults:
    """Faults of one amplifier in one file.

    Parameters
    ----------
    pattern_e : ndarray of float64, shape (x + o,)
        Bias structure, the same in every row: data columns, then overscan.
    hot_columns : sequence of HotColumn
    traps : sequence of Trap
    dropped_rows : sequence of (int, int)
        First file row and number of rows of each dropped run.
    """

    pattern_e: np.ndarray
    hot_columns: Sequence[HotColumn] = ()
    traps: Sequence[Trap] = ()
    dropped_rows: Sequence[tuple[int, int]] = ()


def draw_detector(
    rng: np.random.Generator, n_columns: int, n_overscan: int, *, hot_columns: float, traps: float, row_rate_hz: float
) -> DetectorFaults:
    """Draw the lasting faults of one amplifier.

    Parameters
    ----------
    rng : Generator
    n_columns, n_overscan : int
    hot_columns, traps : float
        Expected number of each.
    row_rate_hz : float
    """
    pattern = _draw_pattern(rng, n_columns + n_overscan)
    columns = rng.permutation(n_columns)
    n_hot, n_traps = rng.poisson(hot_columns), rng.poisson(traps)
    hot = [_draw_hot_column(rng, int(column)) for column in columns[:n_hot]]
    trapped = [_draw_trap(rng, int(column), row_rate_hz) for column in columns[n_hot : n_hot + n_traps]]
    return DetectorFaults(pattern, hot, trapped)


def _draw_pattern(rng: np.random.Generator, n: int) -> np.ndarray:
    """White noise and waves with equal rms."""
    wave = np.sqrt(2) * _PATTERN_E * np.sin(2 * np.pi * (np.arange(n) / _PATTERN_WAVE_COLUMNS + rng.random()))
    return _PATTERN_E * rng.standard_normal(n) + wave


def _draw_hot_column(rng: np.random.Generator, column: int) -> HotColumn:
    level = _log_uniform(rng, _HOT_E)
    blinking = None
    if rng.random() < _BLINKING_SHARE:
        blinking = Blinking(int(rng.integers(2**63)), _log_uniform(rng, _DWELL_S), _log_uniform(rng, _DWELL_S))
    return HotColumn(column, level, blinking)


def _draw_trap(rng: np.random.Generator, column: int, row_rate_hz: float) -> Trap:
    return Trap(
        column,
        _log_uniform(rng, _TRAP_CAPACITY_E),
        _log_uniform(rng, _TRAP_SHARE),
        _log_uniform(rng, (row_rate_hz * _TRAP_RELEASE_S[0], row_rate_hz * _TRAP_RELEASE_S[1])),
    )


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def draw_dropped_rows(
    rng: np.random.Generator, n_rows: int, row_rate_hz: float, runs_per_hour: float
) -> list[tuple[int, int]]:
    """Draw runs of 1 to 20 rows that are lost on the way to the disk: first row and length of each."""
    runs = []
    for _ in range(rng.poisson(runs_per_hour * n_rows / row_rate_hz / 3600)):
        length = min(int(rng.integers(1, _LONGEST_DROP + 1)), n_rows)
        runs.append((int(rng.integers(0, n_rows - length + 1)), length))
    return sorted(runs)


def pass_trap(charge_e: np.ndarray, trap: Trap, held_e: float) -> float:
    """Clock rows of one column over a trap, in place.

    Parameters
    ----------
    charge_e : ndarray of float64, shape (t,)
        Charge of consecutive rows.
    trap : Trap
    held_e : float
        Charge in the trap before.

    Returns
    -------
    held_e : float
        Charge in the trap after. It has gained what the rows have lost.
    """
    return float(_pass_trap(charge_e, trap.capacity_e, trap.share, trap.released, held_e))


@numba.njit(cache=True, nogil=True)
def _pass_trap(charge, capacity, share, released, held):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for t in range(charge.shape[0]):
        out = released * held
        taken = min(share * charge[t], capacity - held + out)
        charge[t] += out - taken
        held += taken - out
    return held
