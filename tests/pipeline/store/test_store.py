from __future__ import annotations

import errno
import hashlib
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.files import (
    BusyFolderError,
    hash_file,
    partial_path,
    remove_partials,
    replace_folder,
    write_parquet,
    write_text,
)
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.store import store as store_module
from shutterless.pipeline.store.store import (
    MANIFEST_COLUMNS,
    EntryWriter,
    StoreError,
    entry_name,
    manifest_hash,
    open_amplifier,
    read_entry,
    read_manifest,
    write_manifest,
)

READOUT = Readout(300.0, 2.0, 5.0, 40_000.0, 50, first_row=7, ccd=3, quadrant=2, supplied=(("GAIN", "2"),))
N_COLUMNS, N_ROWS = 3, 130  # three blocks, the last of them short


def write_entry(store: Path, name: str = "entry", offset: float = 0.0) -> dict:
    residual = np.arange(N_COLUMNS * N_ROWS, dtype=np.float16).reshape(N_COLUMNS, N_ROWS) / 8 + offset
    sigma = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], dtype=np.float32)
    with EntryWriter(store, name, n_columns=N_COLUMNS, n_rows=N_ROWS) as writer:
        writer.residual[0] = residual
        arrays = {"baseline_e": 10 * sigma, "sigma_e": sigma, "row_residual": np.zeros(N_ROWS, dtype=np.float32)}
        streaks = pd.DataFrame([[0, 1.5, 0.0, 100.0, 1.0, 30_000.0, 13.3, np.nan]], columns=list(STREAK_COLUMNS))
        description = {"file": "a.fits", "readout": READOUT.to_dict(), "psf_sigma_px": 0.84, "live_pixel_rows": 390}
        return writer.finish(arrays, streaks, description)


def manifest_row(entry: str, content_hash: str = "0") -> dict:
    return dict.fromkeys(MANIFEST_COLUMNS) | {"entry": entry, "content_hash": content_hash}


def test_entry_names_sort_by_file_ccd_and_quadrant():
    assert entry_name("night_a", 3, 2) == "night_a_c03_q2"
    assert entry_name("night_a", 16, 4) == "night_a_c16_q4"
    assert entry_name("cube", None, None) == "cube_c00_q0"


def test_amplifier_comes_back_as_it_was_written(tmp_path):
    write_entry(tmp_path)
    amplifier = open_amplifier(tmp_path, "entry")
    assert (amplifier.n_rows, amplifier.n_columns, amplifier.residual.dtype) == (130, 3, np.float16)
    assert isinstance(amplifier.residual, np.memmap)
    np.testing.assert_array_equal(amplifier.residual[0, 1, :3], np.array([130, 131, 132]) / 8)
    assert amplifier.readout == READOUT
    assert (amplifier.file, amplifier.entry, amplifier.psf_sigma_px, amplifier.live_pixel_rows) == (
        "a.fits",
        "entry",
        0.84,
        390,
    )
    assert (amplifier.sky_e, amplifier.sky_sigma_e) == (50.0, 5.0)
    assert amplifier.streaks["x"].tolist() == [1.5]


def test_live_hours_are_pixel_rows_over_columns_rate_and_hour(tmp_path):
    write_entry(tmp_path)
    amplifier = replace(open_amplifier(tmp_path, "entry"), live_pixel_rows=3 * 300 * 1800)
    assert amplifier.live_hours == 0.5


def test_sigma_of_rows_is_linear_between_block_centres(tmp_path):
    write_entry(tmp_path)
    amplifier = open_amplifier(tmp_path, "entry")
    rows = amplifier.sigma_rows(slice(None), slice(1, 3), 0, N_ROWS)[0]
    assert rows.shape == (2, N_ROWS)
    # row 63 ends where row 64 begins, half-way between the centres of two blocks
    assert rows[:, BLOCK_ROWS - 1 : BLOCK_ROWS + 1].mean(axis=1) == pytest.approx([4.5, 7.5])
    assert rows[:, 0].tolist() == [4, 7]


def fail_half_way(store: Path) -> None:
    with EntryWriter(store, "entry", n_columns=2, n_rows=4) as writer:
        writer.residual[:] = 1
        raise RuntimeError("power cut")


def test_exception_inside_the_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        fail_half_way(tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_exception_inside_the_writer_keeps_the_entry_that_was_there(tmp_path):
    whole = write_entry(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        fail_half_way(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    assert read_entry(tmp_path, "entry")["content_hash"] == whole["content_hash"]


def test_finished_entry_replaces_the_one_before(tmp_path):
    first, second = write_entry(tmp_path), write_entry(tmp_path, offset=1.0)
    assert first["content_hash"] != second["content_hash"]
    assert open_amplifier(tmp_path, "entry").residual[0, 0, 0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_content_hash_is_of_the_content_alone(tmp_path):
    assert write_entry(tmp_path, "one")["content_hash"] == write_entry(tmp_path / "elsewhere", "two")["content_hash"]


def test_folder_without_description_is_no_entry(tmp_path):
    write_entry(tmp_path)
    (tmp_path / "entry" / "entry.json").unlink()
    assert read_entry(tmp_path, "entry") is None
    with pytest.raises(StoreError, match=r"no finished entry 'entry' of version 2; ingest it again"):
        open_amplifier(tmp_path, "entry")


def test_entry_of_another_version_is_refused(tmp_path):
    write_entry(tmp_path)
    path = tmp_path / "entry" / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_version": 0}))
    assert read_entry(tmp_path, "entry") is None
    with pytest.raises(StoreError, match="no finished entry 'entry' of version 2"):
        open_amplifier(tmp_path, "entry")


def test_store_without_manifest_is_refused(tmp_path):
    write_entry(tmp_path)
    with pytest.raises(StoreError, match=r"not a finished store: manifest.parquet is missing; run `shutterless ingest"):
        read_manifest(tmp_path)


def test_manifest_comes_back_sorted_with_all_columns(tmp_path):
    rows = [manifest_row("b"), manifest_row("a") | {"ccd": 3, "first_row": 100, "extra": 1}]
    write_manifest(tmp_path, rows)
    manifest = read_manifest(tmp_path)
    assert tuple(manifest) == MANIFEST_COLUMNS
    assert manifest["entry"].tolist() == ["a", "b"]
    assert manifest["ccd"].tolist() == [3, pd.NA]
    assert manifest["first_row"].dtype == "Int64"


def test_manifest_of_an_empty_store_has_all_columns(tmp_path):
    write_manifest(tmp_path, [])
    assert tuple(read_manifest(tmp_path)) == MANIFEST_COLUMNS


def test_failed_manifest_leaves_the_old_one(tmp_path, monkeypatch):
    write_manifest(tmp_path, [manifest_row("a")])

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(store_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(tmp_path, [manifest_row("b")])
    assert read_manifest(tmp_path)["entry"].tolist() == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


def test_table_that_parquet_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="object"):
        write_parquet(pd.DataFrame({"a": [object()]}), tmp_path / "table.parquet")
    assert list(tmp_path.iterdir()) == []


def test_manifest_hash_is_of_names_and_contents():
    manifest = pd.DataFrame({"entry": ["b", "a"], "content_hash": ["2", "1"], "source": ["x", "y"]})
    assert manifest_hash(manifest) == hashlib.blake2b(b"a 1\nb 2", digest_size=16).hexdigest()
    assert manifest_hash(manifest.iloc[::-1].assign(source="moved")) == manifest_hash(manifest)
    assert manifest_hash(manifest.assign(content_hash=["2", "3"])) != manifest_hash(manifest)


def write_by_rows(store: Path, residual: np.ndarray, cuts: tuple[int, ...]) -> dict:
    """Write a residual (y, x, t) piece by piece, the last first."""
    n_y, n_columns, n_rows = residual.shape
    edges = [0, *cuts, n_rows]
    with EntryWriter(store, "entry", n_y=n_y, n_columns=n_columns, n_rows=n_rows) as writer:
        for start, stop in reversed(list(pairwise(edges))):
            writer.write_rows(start, residual[:, :, start:stop])
        return writer.finish({}, pd.DataFrame(), {"file": "a.fits"})


@pytest.mark.parametrize("cuts", [(), (1,), (50, 64), (129,)])
@pytest.mark.parametrize("n_y", [1, 4])
def test_rows_that_are_written_piece_by_piece_are_where_they_belong(tmp_path, cuts, n_y):
    residual = np.random.default_rng(1).normal(size=(n_y, N_COLUMNS, N_ROWS)).astype(np.float16)
    residual[0, 1, 70] = np.nan
    whole = write_by_rows(tmp_path, residual, cuts)
    np.testing.assert_array_equal(np.load(tmp_path / "entry" / "residual.npy"), residual)
    expected = hashlib.blake2b(residual.tobytes(), digest_size=16)
    expected.update(pd.DataFrame().to_json(double_precision=12).encode())
    assert whole["content_hash"] == expected.hexdigest()


def test_rows_need_not_lie_in_one_piece_of_memory(tmp_path):
    """A view of every other row of an array that is larger."""
    memory = np.arange(2 * N_COLUMNS * N_ROWS, dtype=np.float16).reshape(1, N_COLUMNS, 2 * N_ROWS)
    write_by_rows(tmp_path, memory[:, :, ::2], (64,))
    np.testing.assert_array_equal(np.load(tmp_path / "entry" / "residual.npy"), memory[:, :, ::2])


def test_rows_written_past_the_map_are_seen_in_it(tmp_path):
    with EntryWriter(tmp_path, "entry", n_columns=2, n_rows=10) as writer:
        writer.residual[:, :, :4] = 1
        writer.write_rows(4, np.full((1, 2, 3), 2, np.float16))
        np.testing.assert_array_equal(writer.residual[0], [[1] * 4 + [2] * 3 + [0] * 3] * 2)


def test_hash_of_a_file_from_a_byte_on(tmp_path):
    content = bytes(range(256)) * 5000  # more than is read at once
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file", 7).digest() == hashlib.blake2b(content[7:], digest_size=16).digest()


def test_partial_names_lie_beside_the_final_one_and_are_all_different(tmp_path):
    names = {partial_path(tmp_path / "entry") for _ in range(100)}
    assert len(names) == 100
    assert all(path.parent == tmp_path and path.match(".entry.*.partial") for path in names)


def make_folder(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "text").write_text(text)
    return path


@pytest.mark.parametrize("is_there", [False, True])
def test_folder_that_is_whole_takes_the_place_of_what_is_there(tmp_path, is_there):
    final = tmp_path / "part"
    if is_there:
        make_folder(final, "old")
        (final / "more").write_text("left over")
    replace_folder(make_folder(tmp_path / ".part", "new"), final)
    assert {path.name: path.read_text() for path in final.iterdir()} == {"text": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def write_meanwhile(monkeypatch, final: Path, times: int) -> list[int]:
    """Let another process put its folder in place after each removal, so many times."""
    remove, calls = store_module.shutil.rmtree, []

    def remove_and_lose(path, **options):
        remove(path, **options)
        if path == final:
            calls.append(1)
            if len(calls) <= times:
                make_folder(final, "another's")

    monkeypatch.setattr(store_module.shutil, "rmtree", remove_and_lose)
    return calls


@pytest.mark.parametrize("times", [1, 9])
def test_folder_that_another_process_writes_at_the_same_time_is_replaced(tmp_path, monkeypatch, times):
    final = make_folder(tmp_path / "part", "old")
    calls = write_meanwhile(monkeypatch, final, times)
    replace_folder(make_folder(tmp_path / ".part", "new"), final)
    assert (final / "text").read_text() == "new"
    assert len(calls) == times + 1


def test_folder_that_another_process_writes_again_and_again_is_an_error(tmp_path, monkeypatch):
    final = make_folder(tmp_path / "part", "old")
    calls = write_meanwhile(monkeypatch, final, 1000)
    with pytest.raises(
        BusyFolderError, match=rf"{re.escape(str(final))} is written by another process again and again"
    ):
        replace_folder(make_folder(tmp_path / ".part", "new"), final)
    assert len(calls) == 10
    assert (final / "text").read_text() == "another's"


def test_folder_that_cannot_be_moved_for_another_reason_is_that_error_at_once(tmp_path, monkeypatch):
    calls = []

    def fail(source, target):
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        replace_folder(make_folder(tmp_path / ".part", "new"), tmp_path / "part")
    assert calls == [1]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    write_entry(tmp_path)
    make_folder(partial_path(tmp_path / "entry"), "half")
    partial_path(tmp_path / "manifest.parquet").write_bytes(b"half")
    make_folder(tmp_path / "below" / ".entry.0123abcd.partial", "not in this folder")
    (tmp_path / ".hidden").write_text("somebody else's")
    remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "below", "entry"]
    assert (tmp_path / "below" / ".entry.0123abcd.partial" / "text").is_file()
    remove_partials(tmp_path / "nowhere")


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "search.json"
    write_text(path, "σ")
    assert path.read_text(encoding="utf-8") == "σ"

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_text(path, "half")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "σ"
    assert [file.name for file in tmp_path.iterdir()] == ["search.json"]


@pytest.mark.parametrize("name", ["../secret", "/etc", "..", ".", "", "a/b", "a\\b", "a\0b"])
def test_no_name_leads_out_of_the_store(tmp_path, name):
    (tmp_path / "store").mkdir()
    write_entry(tmp_path, "secret")
    write_manifest(tmp_path / "store", [manifest_row(name)])
    for read in (lambda: read_manifest(tmp_path / "store"), lambda: open_amplifier(tmp_path / "store", name)):
        with pytest.raises(StoreError, match="is not the name of an entry: it would lead out of the store"):
            read()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("sigma_e.npy", None, r"sigma_e\.npy is missing; ingest the entry again"),
        ("row_residual.npy", np.zeros(5, np.float32), r"has shape \(5,\), a residual of \(1, 3, 130\) needs \(130,\)"),
        ("entry.json", {"psf_sigma_px": -1}, r"entry\.json is not that of an entry: .*psf_sigma_px"),
        ("entry.json", {"readout": {}}, r"entry\.json is not that of an entry"),
        ("entry.json", {"readout": {**READOUT.to_dict(), "gain_e_per_adu": "2"}}, r"gain_e_per_adu = '2', which is no"),
        ("entry.json", {"token_grid": {"n_rows": 0}}, r"\[n_rows\] = 0"),
    ],
)
def test_entry_whose_files_contradict_each_other_is_refused(tmp_path, file, change, message):
    write_entry(tmp_path)
    path = tmp_path / "entry" / file
    if change is None:
        path.unlink()
    elif isinstance(change, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    else:
        np.save(path, change)
    with pytest.raises(StoreError, match=message):
        open_amplifier(tmp_path, "entry")
