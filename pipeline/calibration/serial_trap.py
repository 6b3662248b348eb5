"""Apply and undo the serial trap, which takes charge from one pixel and gives it to the next.

Every row is read column by column. A trap in the serial register holds back some charge of a bright pixel and releases
it into the pixels read after it, so that streaks lean in the direction of reading.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np

from shutterless.pipeline.compiled.vector_power import vector_power
from shutterless.pipeline.reading.instruments import SerialTrap

_TABLE = 4096  # entries per table; the powers below are interpolated to 2e-4 of the serial trap's capacity
# rows computed side by side, applying and removing: within one row every pixel waits for the result of the last
_ROWS_ABREAST, _ROWS_REMOVED = 16, 32  # 32 of 3,072 columns are 0.4 MB, which stay in the cache of a core
_TILE = 16  # columns transposed at a time: one line of the cache
_BUMP_E, _REACH = 8.0, 12  # electrons, and columns over which the serial trap gives back what it took


@lru_cache(maxsize=8)
def _tabulate(exponent: float, flux_exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Tables of ``x^exponent`` over x and of ``u^flux_exponent`` over √u, where it is smooth, from 0 to 1."""
    steps = np.linspace(0.0, 1.0, _TABLE)
    return (steps**exponent).astype(np.float32), (steps ** (2 * flux_exponent)).astype(np.float32)


def apply_serial_trap(electrons: np.ndarray, effect: SerialTrap) -> None:
    """Read rows through the serial trap, in place.

    Parameters
    ----------
    electrons : ndarray of float, shape (t, x)
        Charge of each pixel, columns in the order in which they are read, overscan last.
    effect : SerialTrap

    Notes
    -----
    The overscan at the end of a row leaves the serial trap nearly empty, so that every row begins with an empty one.
    """
    if effect.capacity_e > 0:
        release, capture = _tabulate(effect.exponent, effect.flux_exponent)
        _apply(electrons, effect.capacity_e, effect.full_well_e, release, capture)


def remove_serial_trap(electrons: np.ndarray, effect: SerialTrap) -> None:
    """Undo `apply_serial_trap` in place; NaN (saturated) pixels stay and do not change the filling of the trap.

    Notes
    -----
    The filling follows from the pixels read before. ``n = read - out + in(n)`` is solved by fixed-point iteration that
    starts from the charge captured from the pixel before. Of negative readings nothing is captured.
    """
    if effect.capacity_e > 0:
        parameters = (effect.capacity_e, effect.full_well_e, effect.exponent, effect.flux_exponent)
        # the compiled twin takes float32 alone; other arrays are small
        if electrons.dtype == np.float32:
            _remove(electrons, *map(np.float32, parameters))
        else:
            single = electrons.astype(np.float32)
            _remove(single, *map(np.float32, parameters))
            electrons[:] = single


def serial_trap_response(sky_e: np.ndarray, effect: SerialTrap) -> np.ndarray:
    """Response to one electron more than the sky in a pixel: electrons added to it and to the pixels read after it.

    Parameters
    ----------
    sky_e : ndarray of float, shape (n,)
        Levels of the pixels (electrons), above 0.
    effect : SerialTrap

    Returns
    -------
    ndarray of float64, shape (n, k)
    """
    sky_e = np.asarray(sky_e, dtype=np.float64)[:, None]
    plain, bump_e = np.repeat(sky_e, 4 * _REACH, axis=1), np.minimum(_BUMP_E, sky_e / 4)
    bumped = plain.copy()
    bumped[:, 2 * _REACH] += bump_e[:, 0]
    apply_serial_trap(plain, effect)
    apply_serial_trap(bumped, effect)
    response: np.ndarray = (bumped - plain)[:, 2 * _REACH : 3 * _REACH] / bump_e
    return response


def photon_gain(sky_e: np.ndarray, effect: SerialTrap) -> np.ndarray:
    """Factors, (n,), by which the serial trap reduces the variance of photons: Σ h², of `serial_trap_response`."""
    return np.asarray(np.sum(serial_trap_response(sky_e, effect) ** 2, axis=1))


def noise_gain(sky_e: float, effect: SerialTrap) -> float:
    """Factor by which `remove_serial_trap` enlarges the variance of read noise, which is added after the trap.

    It is ``Σ g²``, where ``g`` is the response to one electron of read noise in that pixel and the pixels after it.
    """
    if not sky_e > 0 or effect.capacity_e <= 0:
        return 1.0
    rows = np.full((2, 4 * _REACH), sky_e)
    apply_serial_trap(rows, effect)
    rows[1, 2 * _REACH] += _BUMP_E
    remove_serial_trap(rows, effect)
    return float(np.sum(((rows[1] - rows[0])[2 * _REACH : 3 * _REACH] / _BUMP_E) ** 2))


@numba.njit(cache=True, nogil=True, inline="always")
def _look_up(table, place):  # pragma: no cover - compiled
    """Interpolate a table over 0 to 1; its first or last value beyond."""
    place = min(max(place, np.float32(0)), np.float32(1)) * np.float32(_TABLE - 1)
    i = np.int32(min(place, np.float32(_TABLE - 2)))
    return table[i] + (place - np.float32(i)) * (table[i + 1] - table[i])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _apply(electrons, capacity, full_well, release, capture):  # pragma: no cover - compiled
    n_rows, n_columns = electrons.shape
    held = np.empty(_ROWS_ABREAST)
    per_capacity, per_full_well = 1 / capacity, 1 / full_well
    for first in range(0, n_rows, _ROWS_ABREAST):
        rows = min(_ROWS_ABREAST, n_rows - first)
        held[:] = 0
        for x in range(n_columns):
            for k in range(rows):
                charge = max(electrons[first + k, x], 0.0)
                filling = np.float32(held[k] * per_capacity)
                out = min(capacity * _look_up(release, filling), held[k])
                room = capacity * _look_up(release, 1 - filling)
                taken = min(room * _look_up(capture, np.float32(np.sqrt(charge * per_full_well))), charge)
                electrons[first + k, x] += out - taken
                held[k] += taken - out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _remove(electrons, capacity, full_well, exponent, flux_exponent):  # pragma: no cover - compiled
    n_rows, n_columns = electrons.shape
    abreast = np.zeros((n_columns, min(_ROWS_REMOVED, n_rows)), np.float32)
    for first in range(0, n_rows, _ROWS_REMOVED):
        rows = min(_ROWS_REMOVED, n_rows - first)
        for start in range(0, n_columns, _TILE):
            stop = min(start + _TILE, n_columns)
            for k in range(rows):
                for x in range(start, stop):
                    abreast[x, k] = electrons[first + k, x]
        _remove_abreast(abreast, capacity, full_well, exponent, flux_exponent)
        for start in range(0, n_columns, _TILE):
            stop = min(start + _TILE, n_columns)
            for k in range(rows):
                for x in range(start, stop):
                    electrons[first + k, x] = abreast[x, k]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _remove_abreast(electrons, capacity, full_well, exponent, flux_exponent):  # pragma: no cover - compiled
    """Undo the effect in some rows at once, (x, rows), in vector registers.

    A table, a branch or a call would prevent vectorisation and make this six times slower. Each power has a loop of
    its own, so that the processor works on the next rows while it waits for the result of one.
    """
    n_columns, n_rows = electrons.shape
    held, taken = np.zeros(n_rows, np.float32), np.zeros(n_rows, np.float32)
    out, room, charge, inside = np.empty((4, n_rows), np.float32)
    one, nothing = np.float32(1), np.float32(0)
    per_capacity, per_full_well = one / capacity, one / full_well
    for x in range(n_columns):
        line = electrons[x]
        for k in range(n_rows):
            filling = _lower(held[k] * per_capacity, one)
            out[k] = _lower(capacity * vector_power(filling, exponent), held[k])
        for k in range(n_rows):
            filling = _lower(held[k] * per_capacity, one)
            room[k] = capacity * vector_power(one - filling, exponent)
        for k in range(n_rows):
            read = line[k]
            charge[k] = (read if read == read else out[k]) - out[k]
            inside[k] = _higher(charge[k] + taken[k], nothing)
        # two fixed-point iterations; each reduces the error to a twentieth, 0.1 electrons on the flank of a star
        for k in range(n_rows):
            flux = _lower(inside[k] * per_full_well, one)
            caught = _lower(room[k] * vector_power(flux, flux_exponent), inside[k])
            inside[k] = _higher(charge[k] + caught, nothing)
        for k in range(n_rows):
            read, before = line[k], taken[k]
            live = one if read == read else nothing
            flux = _lower(inside[k] * per_full_well, one)
            caught = _lower(room[k] * vector_power(flux, flux_exponent), inside[k])
            line[k] = read + (caught - out[k])
            held[k] += live * (caught - out[k])  # a masked pixel does not change the filling
            taken[k] = live * caught + (one - live) * before


@numba.njit(cache=True)
def _lower(a, b):  # pragma: no cover - compiled
    return a if a < b else b


@numba.njit(cache=True)
def _higher(a, b):  # pragma: no cover - compiled
    return a if a > b else b
