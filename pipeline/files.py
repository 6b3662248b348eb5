"""Write files and folders whole or not at all: first under another name, then moved into place."""

from __future__ import annotations

import errno
import hashlib
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_PARTIAL = ".partial"
_ATTEMPTS = 10


class BusyFolderError(OSError):
    """A folder that another process keeps writing at the same time."""


def write_parquet(
    table: pd.DataFrame,
    path: Path,
    *,
    about: Mapping[str, str] | None = None,
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write a Parquet file under another name and move it into place, so that none is ever half-written.

    Parameters
    ----------
    table : DataFrame
    path : Path
    about : mapping of str to str, optional
        Metadata of the file, such as what made it.
    columns : mapping of str to mapping, optional
        Metadata of columns, such as ``unit`` and ``description``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Series.values returning an ndarray that drops timezone")  # Arrow keeps it
        stored = pa.Table.from_pandas(table, preserve_index=False)
    for index, name in enumerate(stored.schema.names):
        if about_column := (columns or {}).get(name):
            stored = stored.set_column(index, stored.schema.field(index).with_metadata(about_column), stored[name])
    stored = stored.replace_schema_metadata({**(stored.schema.metadata or {}), **(about or {})})
    with written_whole(path) as partial:
        pq.write_table(stored, partial)


def partial_path(path: Path) -> Path:
    """Name beside a file or folder under which it is written until it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file written there is moved into place on success, and removed on failure."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def hash_file(path: Path, offset: int = 0) -> Any:
    """BLAKE2b digest (16 bytes) of a file from a byte on, read piece by piece."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))


def replace_folder(partial: Path, final: Path) -> None:
    """Move a complete folder into place, and remove a folder that is there.

    Two processes may do so at once: a worker whose driver was killed, and a worker of the next driver.
    """
    for _ in range(_ATTEMPTS):
        shutil.rmtree(final, ignore_errors=True)
        try:
            partial.replace(final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise BusyFolderError(f"{final} is written by another process again and again; let one of them finish")


def remove_partials(folder: Path) -> None:
    """Remove half-written files and folders that killed processes left in a folder."""
    for path in folder.glob(f".*{_PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file under another name and move it into place."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def give_umask_rights(path: Path) -> None:
    """Give a file the rights of a file that this process would make: safetensors writes for its owner alone."""
    with written_whole(path) as partial:
        shutil.copyfile(path, partial)
