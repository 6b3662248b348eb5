"""Labels of people: lines that survive a kill, undo, and the rule where vetters differ."""

from __future__ import annotations

import os
import threading

import pandas as pd
import pytest

from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.results import labels as labels_module
from shutterless.pipeline.results.labels import (
    LABEL_COLUMNS,
    LabelError,
    append_label,
    combine_vetters,
    read_label_lines,
    read_vetted,
    standing_labels,
)


def line(candidate: str = "a", label: str = "event", confidence: int = 100, who: str = "ada", **others):
    kind = "pickup" if label == "artefact" else ""
    place = {"file": "n.fits", "ccd": 4, "quadrant": 1, "x": 20.5, "row_start": 3, "row_stop": 9, "snr": 8.0}
    place |= {"path": "/night/n.fits", "time_utc": "2026-03-04T05:06:07.000"}
    return (
        {"candidate_id": candidate, "label": label, "kind": kind, "confidence": confidence, "who": who} | place | others
    )


def write(path, *lines):
    for one in lines:
        append_label(path, one)
    return read_label_lines(path).lines


def test_lines_come_back_as_they_were_written(tmp_path):
    found = write(tmp_path / "deep" / "labels.csv", line(who='Ada "the" first, Countess', y=7), line("b", "unsure"))
    assert list(found) == list(LABEL_COLUMNS)
    assert found["who"].tolist() == ['Ada "the" first, Countess', "ada"]
    assert found["y"].tolist() == [7, pd.NA]
    assert found["x"].tolist() == [20.5, 20.5]


def test_what_a_kill_left_in_the_middle_of_a_line_is_dropped_and_the_next_label_is_whole(tmp_path):
    path = tmp_path / "labels.csv"
    write(path, line("a"), line("b"))
    whole = path.read_bytes()
    for n_kept in (*range(whole.index(b"\n") + 2, len(whole), 9), len(whole) - 1):
        path.write_bytes(whole[:n_kept])
        n_whole = whole[:n_kept].count(b"\n") - 1
        torn = read_label_lines(path)
        assert len(torn.lines) == n_whole
        append_label(path, line("c"))
        after = read_label_lines(path)
        assert after.lines["candidate_id"].tolist() == [*["a", "b"][:n_whole], "c"]
        assert bool(after.notes) == (not whole[:n_kept].endswith(b"\n"))
    assert "was torn when its writer was killed, and is dropped" in after.notes[0]


def test_two_writers_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "labels.csv"

    def label_all(who):
        for k in range(40):
            append_label(path, line(f"{who}{k}", who=who))

    writers = [threading.Thread(target=label_all, args=(who,)) for who in ("ada", "bob", "cyd")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_label_lines(path)
    assert found.notes == ()
    assert sorted(found.lines["candidate_id"]) == sorted(
        f"{who}{k}" for who in ("ada", "bob", "cyd") for k in range(40)
    )


def test_a_label_is_synced_to_the_disk_before_it_counts(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(labels_module.os, "fsync", synced.append)
    append_label(tmp_path / "labels.csv", line())
    assert len(synced) == 1


def test_a_full_disk_and_a_line_break_are_named(tmp_path, monkeypatch):
    path = tmp_path / "labels.csv"
    with pytest.raises(LabelError, match=r"'a\\nb' holds a line break or another control character"):
        append_label(path, line("a\nb"))
    append_label(path, line())
    write_some = os.write
    monkeypatch.setattr(labels_module.os, "write", lambda descriptor, data: write_some(descriptor, data[:10]))
    with pytest.raises(LabelError, match=r"only 10 of \d+ bytes of a label were written to .*: is the disk full\?"):
        append_label(path, line("b"))
    monkeypatch.undo()
    assert write(path, line("c"))["candidate_id"].tolist() == ["a", "c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "its first line holds nothing"),
        ("x,y\n1,2\n", "its first line holds x, y; expected time_utc,who"),
        ("{header}\n1,2\n", "line 2 of .* has 2 fields instead of 15"),
        ('{header}\n"1\n', "line 2 of .* is no line of a CSV file"),
        ("{header}\nt,w,c,good,,100,f,1,1,,2,3,4,5,p\n", "line 2 of .*: label is 'good'; expected one of event"),
        ("{header}\nt,w,c,artefact,dust,100,f,1,1,,2,3,4,5,p\n", "kind is 'dust'; expected one of cosmic ray"),
        ("{header}\nt,w,c,event,,101,f,1,1,,2,3,4,5,p\n", "confidence is '101'; expected a number from 0 to 100"),
        ("{header}\nt,w,c,event,,,f,1,1,,2,3,4,5,p\n", "confidence is ''"),
        ("{header}\nt,w,c,event,,50,f,1.5,1,,2,3,4,5,p\n", "ccd is '1.5'; expected a number"),
        ("{header}\nt,w,c,event,,50,f,1,1,,nan,3,4,5,p\n", "x is 'nan'; expected a number"),
    ],
)
def test_a_file_that_is_none_of_labels_is_refused_with_its_line(tmp_path, text, expected):
    path = tmp_path / "labels.csv"
    path.write_text(text.replace("{header}", ",".join(LABEL_COLUMNS)))
    with pytest.raises(LabelError, match=expected):
        read_label_lines(path)


def test_a_huge_file_and_bytes_that_are_no_text_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xff\n")
    with pytest.raises(LabelError, match=r"line 1 of .* is no line of a CSV file"):
        read_label_lines(path)
    monkeypatch.setattr(labels_module, "_MOST_BYTES", 1)
    with pytest.raises(LabelError, match="has 2 bytes, more than 1 of a file of labels"):
        read_label_lines(path)


def test_the_last_label_stands_and_an_undo_brings_the_one_before_back(tmp_path):
    lines = write(
        tmp_path / "labels.csv", line("a", "event"), line("a", "artefact"), line("b"), line("a", "undo", None),
        line("b", "undo", None), line("b", "undo", None), line("a", "unsure", who="bob"),
    )  # fmt: skip
    standing = standing_labels(lines)
    assert standing[["who", "candidate_id", "label"]].to_numpy().tolist() == [
        ["ada", "a", "event"],
        ["bob", "a", "unsure"],
    ]


def test_vetters_who_differ_are_joined_by_the_mean_of_their_signed_confidence(tmp_path):
    lines = write(
        tmp_path / "labels.csv", line("a", "event", 100), line("a", "artefact", 33, "bob"),  # (1 - 0.33) / 2
        line("b", "event", 67), line("b", "artefact", 67, "bob"),  # nothing is left
        line("c", "artefact", 100), line("c", "unsure", 100, "bob"), line("c", "artefact", 50, "cyd"),  # -1.5 / 3
    )  # fmt: skip
    found = combine_vetters(standing_labels(lines)).set_index("candidate_id")
    assert found["label"].to_dict() == {"a": "event", "b": "unsure", "c": "artefact"}
    assert found["weight"].round(3).to_dict() == {"a": 0.335, "b": 0.0, "c": 0.5}
    assert found["kind"].to_dict() == {"a": "", "b": "", "c": "pickup"}
    assert found["n_vetters"].to_dict() == {"a": 2, "b": 2, "c": 3}
    assert not found["agreed"].any()


def test_injected_events_are_not_among_the_vetted(tmp_path):
    write(tmp_path / "labels.csv", line("a"), line("hidden"), line("b", "unsure"))
    write_parquet(pd.DataFrame({"candidate_id": ["hidden"]}), tmp_path / "blind.parquet")
    found = read_vetted([tmp_path / "labels.csv"])
    assert found.lines["candidate_id"].tolist() == ["a"]
    assert found.notes == ("1 candidates have no label: unsure, or vetters who disagree",)
    write_parquet(pd.DataFrame({"candidate_id": ["hidden", "a"]}), tmp_path / "blind.parquet")
    with pytest.raises(LabelError, match=r"no candidate has a label of event or artefact in .*labels.csv"):
        read_vetted([tmp_path / "labels.csv"])
