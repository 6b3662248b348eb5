"""Convert strips and tables between JSON and arrays for a scoring server; refuse bad requests with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.tokens import STRIP_ARRAYS, StripBatch

_SINGLE_AXES = {"patches": 2, "context": 2, "profile": 1, "features": 1, "mask": 1}


class RequestError(ValueError):
    """A request that is refused.

    Parameters
    ----------
    reason : str
        What is wrong, and the way out.
    status : int
        Status of the HTTP answer.
    retry_after_s : int, optional
        Time after which the same request may be answered.
    """

    def __init__(self, reason: str, status: int = 422, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.retry_after_s = status, retry_after_s


def parse_object(body: bytes) -> dict[str, Any]:
    """Read the JSON object of a request.

    Raises
    ------
    RequestError
        If it is not JSON (``NaN`` and ``Infinity`` are no JSON), or no object.
    """
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", 400) from error
    if not isinstance(found, dict):
        raise RequestError(f"the body is a JSON {type(found).__name__}; an object {{…}} is expected", 400)
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; what is masked in a strip is 0 there and false in its mask")


def read_strips(values: Mapping[str, Any], max_strips: int) -> StripBatch:
    """Make strips from plain lists or arrays.

    Parameters
    ----------
    values : mapping of str to array_like
        The arrays of `StripBatch`; without their first axis they are a single strip.
    max_strips : int

    Returns
    -------
    StripBatch
        With finite numbers. The model checks whether the shapes fit.

    Raises
    ------
    RequestError
        If an array is wrong; the message names it and the fault.
    """
    missing = [name for name in STRIP_ARRAYS if name not in values]
    if missing:
        raise RequestError(f"model input lacks {missing[0]!r}; it needs {list(STRIP_ARRAYS)}")
    arrays = {name: _read_array(name, values[name]) for name in STRIP_ARRAYS}
    if all(arrays[name].ndim == axes for name, axes in _SINGLE_AXES.items()):
        arrays = {name: array[np.newaxis] for name, array in arrays.items()}
    numbers = {name: len(array) for name, array in arrays.items()}
    if len(set(numbers.values())) > 1:
        raise RequestError(f"the arrays hold different numbers of strips: {numbers}")
    n_strips = numbers["patches"]
    if n_strips > max_strips:
        raise RequestError(f"{n_strips} strips are more than the {max_strips} of one request; send them in parts", 413)
    return StripBatch(**arrays)


def _read_array(name: str, values: Any) -> np.ndarray:
    """One array as float32, or bool for the mask, with at least one axis."""
    try:
        found = np.atleast_1d(np.asarray(values))
    except (ValueError, OverflowError) as error:
        raise RequestError(f"{name} is no array: {error}") from error
    if found.size and found.dtype.kind not in "biuf":
        raise RequestError(f"{name} holds something that is no number (null, text, or a list among numbers)")
    if name == "mask":
        if found.dtype.kind != "b" and not np.isin(found, (0, 1)).all():
            raise RequestError("mask holds something other than true and false")
        return found.astype(np.bool_)
    with np.errstate(over="ignore"):
        numbers = found.astype(np.float32)
    if not np.isfinite(numbers).all():
        n_bad = int((~np.isfinite(numbers)).sum())
        raise RequestError(f"{name} holds {n_bad} numbers that are not finite (NaN, or beyond float32)")
    return numbers


def table_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table for JSON; missing values and unknown times are None."""
    return plain_table(table).to_dict(orient="records")


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Copy of a table with Python objects; None for missing values, values that are not finite, and unknown times."""
    return pd.DataFrame({name: _plain_column(name, table[name]) for name in table}, dtype=object)


def _plain_column(name: str, column: pd.Series) -> pd.Series:
    values = column.astype(object)
    known = column.notna()
    if column.dtype.kind == "f":
        known &= np.isfinite(column)
    elif column.dtype.kind == "M":
        values = values.map(pd.Timestamp.isoformat, na_action="ignore").astype(object)  # NaT throughout stays NaT
    elif name.startswith("time_"):
        known &= column != ""
    return values.where(known, None)


def to_json(answer: Mapping[str, Any]) -> bytes:
    """Bytes of an answer; numbers keep every digit."""
    return json.dumps(answer, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
