"""Vetting by the keys of a real browser, with a reload, a killed server and a second vetter."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from browser import open_window

from shutterless.pipeline.results.labels import read_label_lines, standing_labels
from shutterless.workflows.vetting.blind import VetError
from shutterless.workflows.vetting.summary import describe_vetters
from shutterless.workflows.vetting.vet import vet_search


class VetServer:
    """A `shutterless vet` process, and the address of its page."""

    def __init__(self, search: Path, who: str, port: int = 0):
        command = [sys.executable, "-m", "shutterless.workflows.cli", "vet", str(search), "--who", who, "-q"]
        self.process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True)
        pattern = re.compile(r"(\d+) of (\d+) candidates wait for \w+ at (http://\S+:(\d+)/)")
        found = next(match for line in self.process.stdout if (match := pattern.search(line)))
        self.n_open, self.n, self.url, self.port = int(found[1]), int(found[2]), found[3], int(found[4])

    def __enter__(self) -> VetServer:
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def press_and_wait(window, key: str) -> None:
    """Press a key, and wait until the page that follows has opened."""
    from selenium.webdriver.common.by import By

    window.execute_script("window.isOld = true")
    window.find_element(By.TAG_NAME, "body").send_keys(key)
    wait_for(window, "return !window.isOld && document.readyState === 'complete'")


def wait_for(window, script: str) -> None:
    """Wait until a script says that something is so."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(window, 60, poll_frequency=0.05).until(lambda page: page.execute_script(script))


def shown(window) -> str:
    """Name of the candidate on the page."""
    return window.execute_script("return document.body.dataset.candidate")


def test_thirty_candidates_labelled_by_keys_survive_a_reload_and_a_killed_server(blind_search, tmp_path):
    injected = set(pd.read_parquet(blind_search / "vetting" / "blind.parquet")["candidate_id"])
    missed = set(sorted(injected)[:2])  # called noise, so that the completeness is 8 of 10
    labels = blind_search / "vetting" / "labels.csv"
    given: dict[str, str] = {}

    def label(window):
        name = shown(window)
        assert name not in given
        given[name] = "n" if name in missed else "e" if name in injected else "ecptgbsnu"[len(given) % 9]
        press_and_wait(window, given[name])

    with open_window(tmp_path) as window:
        with VetServer(blind_search, "ada") as server:
            assert server.n >= 30
            window.get(server.url)
            for _ in range(10):
                label(window)
            here = shown(window)
            window.refresh()
            assert shown(window) == here
            assert window.execute_script("return document.getElementById('done').textContent") == "10"
            press_and_wait(window, "e")
            press_and_wait(window, "z")  # undone: the same candidate again
            assert shown(window) == here
            for _ in range(6):
                label(window)
            server.process.kill()
        assert len(standing_labels(read_label_lines(labels).lines)) == 16
        with labels.open("a") as file:
            file.write("2026-03-04T05:06:07,ada,half a line")  # as of a server killed in the middle of its write
        window.execute_script("document.querySelector('[data-label=event]').click()")
        wait_for(window, "return document.getElementById('problem').textContent.startsWith('Not saved')")
        with VetServer(blind_search, "ada", server.port) as again, VetServer(blind_search, "bob") as other:
            assert again.n_open == again.n - 16
            page = window.current_window_handle
            window.switch_to.new_window("tab")
            window.get(other.url)
            first = shown(window)
            press_and_wait(window, "u")
            window.close()
            window.switch_to.window(page)
            while len(given) < again.n:
                label(window)
            text = window.execute_script("return document.body.innerText")
    assert "Of 10 injected events 8 were called events: completeness 80 % (49–94)." in text
    lines = read_label_lines(labels)
    assert "torn" in lines.notes[0]
    standing = standing_labels(lines.lines)
    ada = standing[standing["who"] == "ada"]
    assert set(ada["candidate_id"]) == set(given)
    assert Counter(ada["label"])["event"] == Counter(given.values())["e"]
    assert standing[standing["who"] == "bob"][["candidate_id", "label"]].to_numpy().tolist() == [[first, "unsure"]]
    words = describe_vetters(blind_search)
    assert "completeness 80 % (49–94)" in words
    assert "ada and bob gave the same label to 0 of 1" in words


@pytest.mark.parametrize("who", ["", " ", "a\nb", "x" * 101])
def test_a_name_that_is_none_is_refused(search, who):
    if who:
        with pytest.raises(VetError, match=r"is no name: 1 to 100 printable characters are expected"):
            vet_search(search, announce=print, who=who)


def test_what_is_no_search_is_refused(tmp_path):
    with pytest.raises(VetError, match=r"holds no finished search: search.json is missing"):
        vet_search(tmp_path, announce=print, who="ada")
