"""Read files that anyone may have written: checked before memory is taken, and any damage is an error of one line."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ColumnKind = Literal["number", "whole number", "text", "truth"]
MOST_JSON_BYTES = 1 << 26
# a table that takes more than this many times the bytes of its file was made to fill the memory
MOST_EXPANDED, ALWAYS_EXPANDED = 200, 1 << 28
_VALUE_BYTES = 8
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
_MOST_WHOLE = 1 << 53  # beyond it a float64 is not sure to be the whole number that was written


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _is_whole(column: pd.Series) -> bool:
    if not _is_number(column):
        return False
    values = column.dropna().to_numpy(dtype=np.float64)
    return bool(((np.abs(values) < _MOST_WHOLE) & (values == np.rint(values))).all())


_KINDS = {
    "number": _is_number,
    "whole number": _is_whole,
    "text": lambda column: pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty"),
    "truth": pd.api.types.is_bool_dtype,
}


class StoredFileError(ValueError):
    """A stored file that is damaged, of another version, or made to fill the memory."""


def refuse_pickles(folder: str | Path) -> None:
    """Refuse a folder that holds a pickle anywhere, recognised by its suffix: opening one runs the code in it.

    What is beside it makes no difference, because another program may open the pickle.

    Raises
    ------
    StoredFileError
        If there are any; the message names them.
    """
    files = (path for path in Path(folder).rglob("*") if path.suffix.lower() in PICKLE_SUFFIXES)
    if found := sorted(path.relative_to(folder).as_posix() for path in files):
        raise StoredFileError(
            f"{folder} holds pickles {found}; pickles can run code and are refused, also beside safetensors: delete "
            "them, or save the model again into an empty folder"
        )


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    StoredFileError
        If it cannot be read, or holds something else.
    """
    path = Path(path)
    if path.stat().st_size > MOST_JSON_BYTES:
        raise StoredFileError(f"{path} has {path.stat().st_size:,} bytes, more than {MOST_JSON_BYTES:,} of a JSON file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoredFileError(f"{path} is not JSON: {_one_line(error)}") from error
    if not isinstance(found, dict):
        raise StoredFileError(f"{path} holds a JSON {type(found).__name__} instead of an object")
    return found


def map_array(path: str | Path, kinds: str, n_axes: int) -> np.ndarray:
    """Open an array of a ``.npy`` file, memory-mapped, so that its header alone takes no memory.

    Parameters
    ----------
    path : path
    kinds : str
        Accepted kinds of its numbers, such as ``"f"`` or ``"iu"`` (`numpy.dtype.kind`).
    n_axes : int

    Raises
    ------
    StoredFileError
        If it is no such file, the file is shorter than its header says, or the array is of another kind.
    """
    path = Path(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # the header is Python text, and may lead numpy to any of them
        raise StoredFileError(f"{path} is not a whole array: {_one_line(error)}") from error
    if array.dtype.kind not in kinds or array.ndim != n_axes:
        raise StoredFileError(
            f"{path} holds {array.dtype} of shape {array.shape}; expected are {n_axes} axes of kind {kinds!r}"
        )
    return array


def read_array(path: str | Path, kinds: str, n_axes: int) -> np.ndarray:
    """Read an array into memory; parameters and errors are those of `map_array`."""
    return np.array(map_array(path, kinds, n_axes))


def read_parquet(
    path: str | Path, columns: Mapping[str, ColumnKind] | None = None, may_lack: Collection[str] = ()
) -> pd.DataFrame:
    """Read a Parquet file.

    Parameters
    ----------
    path : path
    columns : mapping of str to {"number", "whole number", "text", "truth"}, optional
        Columns, and what they hold where they are not missing.
    may_lack : collection of str
        Those of ``columns`` that it need not have.

    Raises
    ------
    StoredFileError
        If it cannot be read, asks for more memory than its size explains, or lacks such a column.
    """
    path = Path(path)
    try:
        _check_expanded_size(path)
        table = pd.read_parquet(path)
        for name in table.select_dtypes(["str", "string"]):
            pa.array(table[name], from_pandas=True).validate(full=True)  # bytes that are no UTF-8 fail here
    except (FileNotFoundError, PermissionError, StoredFileError):
        raise
    except Exception as error:  # a footer can lead to any of them
        raise StoredFileError(f"{path} is not a readable Parquet file: {_one_line(error)}") from error
    for name, kind in (columns or {}).items():
        if name not in table:
            if name in may_lack:
                continue
            found = ", ".join(map(str, table.columns))
            raise StoredFileError(f"{path} lacks the column {name}; it has {found}: was it made by another version?")
        if not table[name].isna().all() and not _KINDS[kind](table[name]):
            raise StoredFileError(f"column {name} of {path} holds {table[name].dtype}, expected is {kind}")
    return table


def _check_expanded_size(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        n_bytes = file.metadata.num_rows * max(file.metadata.num_columns, 1) * _VALUE_BYTES
    most = max(MOST_EXPANDED * path.stat().st_size, ALWAYS_EXPANDED)
    if n_bytes > most:
        raise StoredFileError(f"{path} asks for {n_bytes:,} bytes, more than {most:,}, {MOST_EXPANDED} times its size")


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError | pa.ArrowMemoryError):
        return "it asks for more memory than there is"
    return " ".join(str(error).split()) or type(error).__name__
