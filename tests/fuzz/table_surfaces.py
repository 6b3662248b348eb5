"""Tables, stores and their arrays, and the parts that a search keeps."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from fuzz.fits_surfaces import camera_path, good_frame
from fuzz.surface import Surface, kept_folder
from fuzz.values import (
    DAMAGES,
    NUMBERS,
    OTHER_ARRAYS,
    PLACES,
    PUTS,
    TEXTS,
    Damage,
    OtherArray,
    Put,
    change_document,
    damage,
    to_json_text,
)
from hypothesis import strategies as st

from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.reading.segments import Segment, plan_segments
from shutterless.pipeline.results.catalogue import CatalogueError, identify_streaks, read_catalogue
from shutterless.pipeline.simulation.truth import STAR_COLUMNS, TRUTH_COLUMNS, read_stars, read_truth
from shutterless.pipeline.store.quality_record import read_quality
from shutterless.pipeline.store.store import StoreError, open_amplifier, read_manifest
from shutterless.pipeline.stored_files import StoredFileError
from shutterless.workflows.comparison.field_tables import place_by_entry
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.searching.segment_search import PARTS, read_part
from shutterless.workflows.settings.settings import SearchSettings

COLUMNS = ("x", "y", "mag", "name", "ccd", "quadrant", "ra", "dec", "file", "kind", "is_event", "rho", "star_id")


@dataclass(frozen=True)
class OtherColumn:
    """A column with other values, or none at all."""

    name: str
    values: tuple[Any, ...] | None

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        if self.values is None:
            return table.drop(columns=self.name, errors="ignore")
        values = [self.values[k % len(self.values)] for k in range(len(table))] if self.values else [None] * len(table)
        return table.assign(**{self.name: pd.Series(values, dtype=object)})


@dataclass(frozen=True)
class TableInput:
    """A good table, columns that differ, its form, and damages of its bytes."""

    form: str
    columns: tuple[OtherColumn, ...] = ()
    damages: tuple[Any, ...] = ()

    def write(self, table: pd.DataFrame, folder: Path) -> Path:
        for column in self.columns:
            table = column.apply(table)
        path = folder / f"fuzzed.{self.form}"
        try:
            _write_table(table, path)
        except Exception:  # no program writes such a column in this form: an empty file stands for it
            path.write_bytes(b"")
        path.write_bytes(damage(path.read_bytes(), self.damages))
        return path


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        Table.from_pandas(table.infer_objects()).write(path, format="ascii.ecsv", overwrite=True)


def use_catalogue(value: TableInput, folder: Path) -> None:
    """Stars of a catalogue name the streaks of an amplifier."""
    stars = pd.DataFrame({"x": [10.0, 20.0, 40.5], "y": [5.0, 30.0, 2.0], "mag": [14.0, 15.0, 16.0]})
    catalogue = read_catalogue(value.write(stars.assign(name=["a", "b", "c"], ccd=1, quadrant=2), folder))
    streaks = stars.assign(y0=np.nan, streak_id=range(3), flux_e_row=100.0)
    readout = Readout(300.0, 2.0, 5.0, 60_000.0, 50, ccd=1, quadrant=2, sequence="night")
    named, _ = identify_streaks({"one": streaks}, {"one": readout}, catalogue)
    assert len(named["one"]) == len(streaks)


def use_truth(value: TableInput, folder: Path) -> None:
    """Truth and stars are placed in the entries of a store."""
    names = TRUTH_COLUMNS if value.form == "parquet" else STAR_COLUMNS
    cells = {"string": "night.fits", "bool": True, "int64": 1, "float64": 2.5}
    table = pd.DataFrame({name: pd.Series([cells[kind]] * 3, dtype=kind) for name, kind in names.items()})
    path = TableInput("parquet", value.columns, value.damages).write(table, folder)
    found = read_truth(path) if names is TRUTH_COLUMNS else read_stars(path)
    manifest = pd.DataFrame({"file": ["night.fits"], "ccd": [1], "quadrant": [1], "entry": ["night_c01_q1"]})
    assert len(place_by_entry(found, manifest.astype({"ccd": "Int64", "quadrant": "Int64"}))) <= len(found)


@dataclass(frozen=True)
class FolderInput:
    """A folder as the package writes it, of which some files are changed."""

    changes: tuple[tuple[int, Any], ...]

    def write(self, good: Path, folder: Path) -> Path:
        target = folder / "fuzzed"
        shutil.copytree(good, target)
        for place, change in self.changes:
            files = sorted(path for path in target.rglob("*") if path.is_file())
            _change_file(files[place % len(files)], change)
        return target


def _change_file(path: Path, change: Any) -> None:
    """Change a file in the way that fits its kind; others are damaged."""
    with suppress(
        OSError, ValueError, TypeError, KeyError, NotImplementedError
    ):  # what an earlier change left has no such form
        _change_content(path, change)


def _change_content(path: Path, change: Any) -> None:
    if isinstance(change, OtherColumn) and path.suffix == ".parquet":
        table = pd.read_parquet(path)
        names = [*table.columns, change.name]
        OtherColumn(names[len(change.name) % len(names)], change.values).apply(table).to_parquet(path)
    elif isinstance(change, OtherArray) and path.suffix == ".npy":
        path.write_bytes(change.write(path.read_bytes()))
    elif isinstance(change, Put) and path.suffix == ".json":
        path.write_bytes(to_json_text(change_document(json.loads(path.read_bytes()), [change])))
    elif change is None:
        path.unlink()
    else:
        other = change if isinstance(change, Damage) else Damage(len(repr(change)), b"\xff\xff")
        path.write_bytes(damage(path.read_bytes(), [other]))


def use_store(value: FolderInput, folder: Path) -> None:
    """Manifest, entries, arrays and recorded quality."""
    store = value.write(_good_store(), folder)
    manifest = read_manifest(store)
    for entry in manifest["entry"]:
        amplifier = open_amplifier(store, str(entry))
        assert amplifier.live_hours >= 0
        assert amplifier.sigma_rows(slice(0, 1), slice(0, 2), 0, 10).shape == (1, 2, 10)
        read_quality(store, str(entry))


def use_part(value: FolderInput, folder: Path) -> None:
    """A part of a search is read as it was written, or not at all."""
    out, segment = _good_search()
    part = read_part(value.write(out, folder), segment)
    if part is not None:
        assert part.content == read_part(out, segment).content


@cache
def _good_store() -> Path:
    store = kept_folder("store")
    ingest_files([good_frame(200)], store, instrument=camera_path(), executor=SerialExecutor())
    return store


@cache
def _good_search() -> tuple[Path, Segment]:
    """A folder with the parts of a search alone, and one of its segments."""
    frame, out = good_frame(200), kept_folder("search")
    search_files(
        [frame], reference="template-bank", out=out, settings=SearchSettings(false_alarms_per_hour=1.0),
        instrument=camera_path(), executor=SerialExecutor(),
    )  # fmt: skip
    shutil.copytree(out / PARTS, kept_folder("parts") / PARTS)
    return kept_folder("parts"), plan_segments([read_info(frame, camera_path())])[0]


_CELLS = st.none() | st.booleans() | NUMBERS | TEXTS | st.lists(NUMBERS, max_size=2)
_OTHER_COLUMNS = st.builds(OtherColumn, st.sampled_from(COLUMNS), st.none() | st.lists(_CELLS, max_size=3).map(tuple))
_TABLES = st.builds(
    TableInput,
    st.sampled_from(["csv", "ecsv", "parquet"]),
    st.lists(_OTHER_COLUMNS, max_size=3).map(tuple),
    st.lists(DAMAGES, max_size=2).map(tuple),
)
_FOLDERS = st.builds(
    FolderInput,
    st.lists(st.tuples(PLACES, st.none() | DAMAGES | PUTS | OTHER_ARRAYS | _OTHER_COLUMNS), min_size=1, max_size=3).map(
        tuple
    ),
)
SURFACES = (
    Surface("catalogues", _TABLES, use_catalogue, (CatalogueError,), "fuzzed", 5, 40),
    Surface("truth tables", _TABLES, use_truth, (StoredFileError,), "fuzzed", 2, 30),
    Surface("stores", _FOLDERS, use_store, (StoreError, StoredFileError), "", 3, 30, _good_store),
    Surface("parts", _FOLDERS, use_part, (), "", 2, 20, _good_search),
)
