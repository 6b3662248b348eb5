"""Injected events among the candidates: nothing but the file of truths tells them apart."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.results.labels import LABEL_COLUMNS
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.vetting.app import build_vetting_app
from shutterless.workflows.vetting.blind import VetError, open_blind, prepare_blind
from shutterless.workflows.vetting.candidate_queue import line_up
from shutterless.workflows.vetting.desk import Desk

N_BLIND = 10  # as in conftest.py


@pytest.fixture(scope="module")
def queue(blinded):
    return line_up(blinded, open_blind(blinded))


@pytest.fixture(scope="module")
def injected(blinded) -> set[str]:
    return set(open_blind(blinded).truth["candidate_id"])


def test_as_many_as_were_asked_for_and_none_is_a_candidate_of_the_frames(blinded, injected):
    names = set(pd.read_parquet(blinded / "candidates.parquet")["candidate_id"])
    assert len(injected) == N_BLIND
    assert injected & names == set()
    truth = open_blind(blinded).truth
    assert truth["event_id"].is_unique
    assert (truth["rho"] > 0).all()


def test_they_stand_where_their_own_numbers_put_them(queue, injected):
    sizes = [abs(queued.candidate["snr"]) for queued in queue]
    assert sizes == sorted(sizes, reverse=True)
    places = [place for place, queued in enumerate(queue) if queued.name in injected]
    assert len(places) == N_BLIND
    assert places != list(range(N_BLIND))
    assert places != list(range(len(queue) - N_BLIND, len(queue)))


def test_no_column_and_no_label_tells_them_apart(blinded, queue, injected):
    files = json.loads((blinded / "search.json").read_text())["files"]
    for queued in queue:
        assert list(queued.candidate.index) == list(queue[0].candidate.index)
        assert set(queued.place) <= set(LABEL_COLUMNS)
        assert queued.place["path"] == files[queued.candidate["file"]]
        assert re.fullmatch(r"s_c0[45]_000_c0[45]_q[12]_x\d{4}\.\d\d_r\d{7}", queued.name)


def test_no_page_tells_them_apart(queue, injected, tmp_path):
    from starlette.testclient import TestClient

    client = TestClient(build_vetting_app(Desk(queue, tmp_path / "labels.csv", "ada"), str))
    pages = {}
    hidden = [place for place, queued in enumerate(queue, start=1) if queued.name in injected][:3]
    for place in (*hidden, *sorted(set(range(1, len(queue) + 1)) - set(hidden))[:3]):
        queued = queue[place - 1]
        text = client.get(f"/candidate/{place}").text
        assert "blind" not in text
        assert "injected" not in text.lower()
        assert "vetting/" not in text
        text = text.replace(queued.name, "NAME")
        plain = re.sub(r'data:image[^"]+|nonce="[^"]+"|<dd>[^<]*|\d+', "", text)
        for name in ("Streak", "Magnitude"):  # of those on a star
            plain = plain.replace(f"<dt>{name}</dt></dd>\n", "")
        pages.setdefault(queued.name in injected, set()).add(re.sub("is one row|joins  rows", "", plain))
    assert pages[True] == pages[False]
    assert len(pages[True]) == 1


def test_a_seed_gives_the_same_test_and_another_seed_another(searched, blinded, injected, tmp_path):
    for seed in (4, 5):
        again = shutil.copytree(searched, tmp_path / str(seed))
        prepare_blind(again, N_BLIND, SerialExecutor(), seed=seed)
        assert (set(open_blind(again).truth["candidate_id"]) == injected) == (seed == 4)


def test_frames_that_are_gone_are_named(search):
    record = json.loads((search / "search.json").read_text())
    record["files"] = {name: "/gone/" + name for name in record["files"]}
    (search / "search.json").write_text(json.dumps(record))
    with pytest.raises(VetError, match=r"can be copied for a blind test: /gone/s_c04_000.fits is gone"):
        prepare_blind(search, 3, SerialExecutor())
    assert open_blind(search) is None


def test_events_that_the_search_does_not_find_are_no_test(search, monkeypatch):
    from shutterless.workflows.vetting import blind

    monkeypatch.setattr(blind, "_match", lambda candidates, truth: np.full(len(candidates), -1))
    with pytest.raises(VetError, match=r"the search finds none of the \d+ events that were injected into \d files"):
        prepare_blind(search, 3, SerialExecutor(), seed=1)
