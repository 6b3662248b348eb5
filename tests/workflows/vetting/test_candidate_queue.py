"""Which candidates are vetted, and in which order."""

from __future__ import annotations

import pandas as pd
import pytest

from shutterless.workflows.vetting.blind import VetError
from shutterless.workflows.vetting.candidate_queue import line_up, read_names


def test_one_of_every_group_is_vetted(search):
    candidates = pd.read_parquet(search / "candidates.parquet")
    queue = line_up(search)
    assert len(queue) == candidates["group_id"].nunique() >= 20
    assert {queued.name for queued in queue} <= set(candidates["candidate_id"])


def test_only_those_that_are_named_also_members_of_groups_and_vetoed_triggers(search):
    candidates = pd.read_parquet(search / "candidates.parquet")
    vetoed = candidates.tail(1).assign(candidate_id="vetoed one", veto="sharp")
    vetoed.to_parquet(search / "vetoed.parquet")
    names = [candidates["candidate_id"].iloc[3], "of another search", "vetoed one"]
    assert [queued.name for queued in line_up(search, only=names)] == [names[0], names[2]]


def test_what_leaves_nothing_to_vet_is_refused(search, tmp_path):
    with pytest.raises(VetError, match=r"has no candidate of those named to vet"):
        line_up(search, only=["of another search"])
    with pytest.raises(VetError, match=r"holds no finished search: search.json is missing"):
        line_up(tmp_path / "nowhere")


def test_names_are_those_of_the_column_each_once(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("probability,candidate_id\n0.1,b\n0.2,a\n0.3,b\n")
    assert read_names(path) == ["b", "a"]
    path.write_text("probability,name\n0.1,b\n")
    with pytest.raises(VetError, match=r"names.csv lacks the column candidate_id; its first line holds"):
        read_names(path)
    path.write_text("candidate_id\n")
    with pytest.raises(VetError, match=r"names.csv names no candidate"):
        read_names(path)
