"""Files that are damaged, of another kind, or made to fill the memory are refused in one line."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shutterless.pipeline.stored_files import (
    StoredFileError,
    map_array,
    read_array,
    read_json,
    read_parquet,
    refuse_pickles,
)


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def test_arrays_come_back(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", "f", 2), values)
    assert isinstance(map_array(tmp_path / "a.npy", "f", 2), np.memmap)


@pytest.mark.parametrize(
    ("descr", "shape", "message"),
    [
        ("<f8", (10**12,), "is not a whole array"),
        ("<f8", (2**62, 2**62), "is not a whole array"),
        ("|O", (1,), "is not a whole array: Array can't be memory-mapped: Python objects in dtype"),
        ("<i4", (2, 2), r"holds int32 of shape \(2, 2\); expected are 1 axes of kind 'f'"),
    ],
)
def test_header_that_asks_for_something_else_takes_no_memory(tmp_path, descr, shape, message):
    path = tmp_path / "a.npy"
    path.write_bytes(npy_header(descr, shape) + bytes(16))
    tracemalloc.start()
    with pytest.raises(StoredFileError, match=message):
        read_array(path, "f", 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON: Expecting property name"),
        (b"[1]", "holds a JSON list instead of an object"),
        (b"[" * 100_000, "is not JSON: maximum recursion depth"),
        (b"\xff", "is not JSON: 'utf-8' codec can't decode"),
    ],
)
def test_json_that_is_no_object_is_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoredFileError, match=message):
        read_json(tmp_path / "a.json")


def test_json_that_is_too_long_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(StoredFileError, match=r"has 1,073,741,824 bytes, more than 67,108,864 of a JSON file"):
        read_json(tmp_path / "a.json")


def test_tables_come_back_with_their_types(tmp_path):
    table = pd.DataFrame(
        {"x": [1.5, 2.0], "ccd": pd.array([1, None], "Int64"), "name": ["a", "b"], "good": [True, False]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    kinds = {"x": "number", "ccd": "number", "name": "text", "good": "truth"}
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "a.parquet", {**kinds, "y": "number"}, {"y"}), table)


def test_columns_of_another_version_are_named(tmp_path):
    pd.DataFrame({"x": ["wide"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(StoredFileError, match=r"lacks the column y; it has x: was it made by another version\?"):
        read_parquet(tmp_path / "a.parquet", {"y": "number"})
    with pytest.raises(StoredFileError, match=r"column x of .*a\.parquet holds str, expected is number"):
        read_parquet(tmp_path / "a.parquet", {"x": "number"})


@pytest.mark.parametrize("value", [1.5, 2.0**63, np.inf, True])
def test_column_of_whole_numbers_holds_no_other(tmp_path, value):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": [2.0, np.nan]}).to_parquet(path)
    assert len(read_parquet(path, {"x": "whole number"})) == 2
    pd.DataFrame({"x": [value]}).to_parquet(path)
    with pytest.raises(StoredFileError, match=r"column x of .*a\.parquet holds \w+, expected is whole number"):
        read_parquet(path, {"x": "whole number"})


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_cut_table_is_refused(tmp_path, cut):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": np.arange(50.0)}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoredFileError, match=r"a\.parquet is not a readable Parquet file: "):
        read_parquet(path)


def test_footer_of_absurd_length_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": np.arange(50.0)}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1")
    with pytest.raises(StoredFileError, match="is not a readable Parquet file"):
        read_parquet(path)


def test_table_that_would_fill_the_memory_is_refused(tmp_path):
    """One value 40 million times: 320 MB in memory from a file of 143 kB."""
    path = tmp_path / "a.parquet"
    part = pa.table({"x": pa.array(np.zeros(4_000_000, np.int8))})
    with pq.ParquetWriter(path, part.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(part, row_group_size=4_000_000)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(StoredFileError, match=r"asks for 320,000,000 bytes, more than 268,435,456, 200 times its size"):
        read_parquet(path)


def test_text_that_is_no_utf8_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"name": ["abcdefgh"]}), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abc\xffefgh"))
    with pytest.raises(StoredFileError, match="is not a readable Parquet file: Invalid UTF8"):
        read_parquet(path)


def test_pickles_are_refused_wherever_they_lie(tmp_path):
    refuse_pickles(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "state.PKL").write_bytes(b"")
    with pytest.raises(StoredFileError, match=r"holds pickles \['deep/state\.PKL'\]; pickles can run code"):
        refuse_pickles(tmp_path)
