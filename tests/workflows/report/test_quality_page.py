"""The quality page of a store: marks, sentences, and parts left out."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from browser import find_overflow
from typer.testing import CliRunner

from shutterless.pipeline.calibration.quality import column_statistics, summarise_quality
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.store.quality_record import AmplifierQuality, read_quality
from shutterless.pipeline.store.store import EntryWriter, StoreError, open_amplifier, read_manifest, write_manifest
from shutterless.workflows.cli import app
from shutterless.workflows.report import quality_page as quality_module
from shutterless.workflows.report.quality_page import (
    describe_live_time,
    find_unusual,
    quality_sections,
    serial_trap_strength,
    summarise_amplifiers,
)
from shutterless.workflows.report.report import ReportError, write_report

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, ccd=3, quadrant=2, zero_point_mag=26.0)
ORDINARY = {
    "file": "night.fits",
    "instrument": "ztf",
    "live_pixel_rows": 10**8,
    "noise": 1.01,
    "masked_fraction": 0.01,
    "bad_columns": 3,
    "row_correlation": 0.004,
    "column_correlation": -0.007,
    "n_streaks": 40,
    "n_moving_streaks": 9,
    "serial_trap_capacity_e": 378.0,
}


def make_quality(sky_noise=1.0, tails=(0, 0), entry="night_c03_q2", **numbers):
    """An amplifier of 100 columns of sky; tails per column, below and above."""
    numbers = ORDINARY | numbers
    return AmplifierQuality(
        entry,
        numbers,
        READOUT,
        n_rows=640,
        n_columns=100,
        level_e=np.full(100, 314.0),
        sky=np.ones(100, dtype=bool),
        expected_tails=np.array([1.25e-7, 5.83e-7]) * numbers["live_pixel_rows"],
        column_noise=np.full(100, sky_noise, dtype=np.float32),
        column_tails=np.tile(np.array([tails], dtype=np.int32), (100, 1)),
        row_offset_e=np.zeros(640, dtype=np.float32),
    )


def cells(html):
    """Cells of a table, row by row, and the marked ones."""
    rows = re.findall(r"<tr>(<td.*?)</tr>", html)
    found = [re.findall(r"<td([^>]*)>([^<]*)</td>", re.sub(r"</?a\b[^>]*>", "", row)) for row in rows]
    return [[text for _, text in row] for row in found], [
        [text for how, text in row if "marked" in how] for row in found
    ]


@pytest.mark.parametrize(
    ("numbers", "sentences"),
    [
        ({}, {}),
        ({"sky_noise": 1.019}, {}),
        ({"sky_noise": 1.03}, {"sky_noise": "the noise of sky columns is 1.030 of theory"}),
        ({"sky_noise": 0.97}, {"sky_noise": "the noise of sky columns is 0.970 of theory"}),
        ({"row_correlation": -0.04}, {"row_correlation": "neighbouring rows are correlated by −0.040"}),
        ({"column_correlation": 0.031}, {"column_correlation": "neighbouring columns are correlated by 0.031"}),
        ({"masked_fraction": 0.06}, {"masked_fraction": "6.0 % of the pixels are masked"}),
        ({"row_correlation": np.nan, "masked_fraction": np.nan}, {}),
    ],
)
def test_what_is_out_of_the_ordinary_is_named(numbers, sentences):
    assert find_unusual(make_quality(**numbers, live_pixel_rows=100)) == sentences


def test_tails_are_judged_where_noise_has_enough_of_them():
    """Of 10⁸ sky pixels 12.5 are below and 58 above 5 sigma (Poisson and read noise), of 10⁹ ten times as many."""
    assert set(find_unusual(make_quality(tails=(0, 0)))) == {"above", "below"}  # none of 12.5 and of 58
    assert find_unusual(make_quality(tails=(0, 0), live_pixel_rows=10**7)) == {}  # 1.2 and 5.8 expected
    assert find_unusual(make_quality(tails=(1, 6), live_pixel_rows=10**9)) == {}  # 100 and 600 of 125 and 583
    unusual = find_unusual(make_quality(tails=(2, 6), live_pixel_rows=10**9))
    assert unusual == {"below": "200 isolated sky pixels are below 5 σ where noise has 125.0"}
    assert list(find_unusual(make_quality(tails=(0, 1), live_pixel_rows=10**6))) == ["above"]  # 100 of 0.6


def test_a_few_more_than_chance_brings_are_not_out_of_the_ordinary():
    assert quality_module._tail_is_unusual(17, 11.0) is False  # 1.55 times, and 6 % by chance
    assert quality_module._tail_is_unusual(24, 11.0) is True
    assert quality_module._tail_is_unusual(2, 11.0) is False  # 0.1 %
    assert quality_module._tail_is_unusual(1, 11.0) is True


def test_table_marks_the_cell_and_no_other():
    ordinary, noisy = make_quality(live_pixel_rows=100), make_quality(sky_noise=1.05, live_pixel_rows=100)
    words, table, _ = summarise_amplifiers([ordinary, noisy])
    row = table.rows[0]
    assert row[:2] == ["night_c03_q2", "3 / 2"]
    assert row[4:9] == ["1.0", "3", "1.000", "1.010", "0.004"]
    assert row[-2:] == ["40 / 9", "0.50"]
    assert [table.rows[i][j] for i, j in table.marked] == ["1.050"]
    assert "something is out of the ordinary in 1 of them" in words.text
    assert "nothing is out of the ordinary" in summarise_amplifiers([ordinary])[0].text


def test_live_time_in_words():
    words = describe_live_time(make_quality(live_pixel_rows=54_000_000))
    assert words.startswith("Live time: 0.50000 amplifier-hours, that is 54,000,000 unmasked pixel-rows / (100 columns")


def test_serial_trap_is_a_fraction_of_a_known_profile_and_electrons_of_another():
    assert serial_trap_strength(make_quality()) == "0.50"  # 378 of 756 electrons
    assert serial_trap_strength(make_quality(instrument="our own")) == "378 e⁻"
    assert serial_trap_strength(make_quality(instrument="our own", serial_trap_capacity_e=0.0)) == "0"


@pytest.fixture(scope="module")
def page_of_store(training_store, tmp_path_factory):
    store = tmp_path_factory.mktemp("quality") / "store"
    shutil.copytree(training_store, store)
    return store, write_report(store).read_text(encoding="utf-8")


def test_every_amplifier_has_a_row_a_section_and_four_pictures(page_of_store):
    store, html = page_of_store
    entries = read_manifest(store)["entry"].tolist()
    assert len(entries) == 4
    assert re.findall(r'<section id="([^"]+)">', html) == ["amplifiers", "pictures", "failures"]
    assert re.findall(r'<div class="card" id="entry-([^"]+)">', html) == entries
    assert [row[0] for row in cells(html)[0][:4]] == entries
    assert html.split("</nav>")[0].count("<a ") == 3  # no link for each amplifier
    assert html.count("<img ") == 16
    assert "No picture" not in html
    assert "No file or amplifier was skipped." in html


def test_the_page_refers_to_nothing_outside_itself_and_is_the_same_each_time(page_of_store):
    store, html = page_of_store
    assert all(target.startswith(("data:image/", "#")) for target in re.findall(r'(?:src|href)="([^"]+)"', html))
    assert write_report(store).read_text(encoding="utf-8") == html


def test_the_page_fits_the_window(page_of_store, tmp_path):
    assert find_overflow(page_of_store[1], tmp_path) == []


def test_the_numbers_of_the_page_are_those_of_the_pixels(page_of_store):
    store, html = page_of_store
    entry = read_manifest(store)["entry"].iloc[1]
    residual = open_amplifier(store, entry).residual[0]
    statistics = column_statistics(residual)
    summary = summarise_quality(statistics, statistics["live"].to_numpy() == 0, residual.shape[1])
    row = cells(html)[0][1]
    assert row[3:5] == [
        f"{summary['live_pixel_rows'] / (64 * 300 * 3600):.4f}",
        f"{100 * summary['masked_fraction']:.1f}",
    ]
    assert row[7] == f"{summary['noise']:.3f}"
    assert row[8].replace("−", "-") == f"{summary['row_correlation']:.3f}"
    assert f"{np.isfinite(residual).sum():,} unmasked pixel-rows / (64 columns" in html
    quality = read_quality(store, entry)
    inside = np.where(np.abs(residual[quality.sky].astype(float)) < 5, residual[quality.sky].astype(float), np.nan)
    assert quality.sky_noise == pytest.approx(np.nanstd(inside), rel=1e-3)


def test_entry_of_an_older_version_says_what_it_lacks(page_of_store, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(page_of_store[0], store)
    entry = read_manifest(store)["entry"].iloc[0]
    for name in ("column_noise", "column_tails", "row_offset_e"):
        (store / entry / f"{name}.npy").unlink()
    description = json.loads((store / entry / "entry.json").read_text())
    for name in set(ORDINARY) - {"file", "live_pixel_rows"}:
        del description[name]
    (store / entry / "entry.json").write_text(json.dumps(description))
    html = write_report(store, [entry]).read_text(encoding="utf-8")
    assert re.findall(r"No picture of ([a-z ]+): the entry was written by an older version", html) == [
        "the noise of the columns",
        "the pickup",
    ]
    assert cells(html)[0][0][4:] == ["–"] * 8 + ["– / –", "–"]
    assert html.count("<img ") == 2


def test_empty_store_is_said_to_be_empty(tmp_path):
    write_manifest(tmp_path, [])
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "The store is empty: no amplifier was ingested." in html
    assert "<img " not in html


def test_of_many_amplifiers_the_worst_are_pictured(page_of_store, monkeypatch):
    """Two at most: the one with most marks, then the one with noise farthest from 1."""
    store, _ = page_of_store
    a, b, c, d = read_manifest(store)["entry"]
    known = {
        a: make_quality(entry=a, live_pixel_rows=100),
        b: make_quality(entry=b, live_pixel_rows=100, sky_noise=1.01),
        c: make_quality(entry=c, live_pixel_rows=100, row_correlation=0.1),
        d: make_quality(entry=d, live_pixel_rows=100, sky_noise=0.995),
    }
    monkeypatch.setattr(quality_module, "MAX_AMPLIFIER_SECTIONS", 2)
    monkeypatch.setattr(quality_module, "read_quality", lambda _, entry: known[entry])
    monkeypatch.setattr(quality_module, "describe_amplifier", lambda *_: [])
    sections = quality_sections(store)
    assert [section.anchor for section in sections] == ["amplifiers", "pictures"]
    assert [card.anchor for card in sections[1].parts] == [f"entry-{c}", f"entry-{b}"]
    assert sections[0].parts[1].links == {(1, 0): f"#entry-{b}", (2, 0): f"#entry-{c}"}
    words = sections[0].parts[-1].text
    assert "the 2 of 4 amplifiers that stand out most" in words
    assert "`shutterless report store --entry ENTRY` shows any other" in words
    assert [card.anchor for card in quality_sections(store, [d])[1].parts] == [f"entry-{d}"]


def test_unknown_entry_is_refused(page_of_store):
    with pytest.raises(StoreError, match="has no entry 'absent'; it holds quiet_c01_000_c01_q1, "):
        write_report(page_of_store[0], ["absent"])


def test_entry_of_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"is not a store \(it has no manifest.parquet\), so it has no entry 'a'"):
        write_report(tmp_path, ["a"])


def test_command_shows_the_entries_it_is_given(page_of_store):
    store, _ = page_of_store
    entry = read_manifest(store)["entry"].iloc[2]
    result = CliRunner().invoke(app, ["report", str(store), "--entry", entry])
    assert (result.exit_code, result.stdout) == (0, f"report: {store / 'report.html'}\n")
    html = (store / "report.html").read_text(encoding="utf-8")
    assert html.count("<img ") == 4
    assert f"Pictures follow of {entry}, as asked." in html


def test_amplifier_without_stars_or_live_pixels_is_pictured(tmp_path):
    noise = np.full(8, np.nan, dtype=np.float32)
    arrays = {
        "baseline_e": np.full((1, 8, 2), 300, np.float32),
        "sigma_e": np.full((1, 8, 2), 20, np.float32),
        "row_residual": np.zeros(100, np.float32),
        "row_offset_e": np.full(100, np.nan, np.float32),
        "column_noise": noise,
        "column_tails": np.zeros((8, 2), np.int32),
    }
    described = {"readout": READOUT.to_dict(), "psf_sigma_px": 0.84, **ORDINARY}
    described |= {"live_pixel_rows": 0, "masked_fraction": 1.0, "noise": 0.0, "row_correlation": np.nan}
    with EntryWriter(tmp_path, "dark_c03_q2", n_columns=8, n_rows=100) as writer:
        writer.residual[:] = np.nan
        writer.finish(arrays, pd.DataFrame({"streak_id": [], "x": [], "mag": [], "flux_e_row": []}), described)
    write_manifest(tmp_path, [{"entry": "dark_c03_q2", "file": "dark.fits"}])
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Out of the ordinary: 100.0 % of the pixels are masked." in html
    assert "no streak was found" in html
    assert "No line stands above the noise." in html
    assert "8 columns are masked from end to end" in html
