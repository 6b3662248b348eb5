"""The report of image cubes: the values that an astronomer reads are those in the files."""

import base64
import re
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import find_overflow
from fake_cubes import KEPLER_CADENCE_D, LIGHT_DRIFT, star_images, write_kepler, write_plain

from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.candidates import CANDIDATE_TYPES
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import EntryWriter, StoreError, open_amplifier, write_manifest
from shutterless.workflows.pages.drawings import new_figure
from shutterless.workflows.pages.parts import Picture
from shutterless.workflows.pages.run_folder import RunFolder
from shutterless.workflows.report import cube_cards, cube_entry, cube_sections
from shutterless.workflows.report.cube_cards import image_rows, relative_amplitude, shown_rows
from shutterless.workflows.report.cube_entry import (
    CubeEntry,
    archive_text,
    duration_text,
    median_light,
    read_light,
    relative_light,
    scale_text,
    sum_light,
    time_label,
)
from shutterless.workflows.report.cube_sections import calm_limits, cube_store_sections, shown_pixels
from shutterless.workflows.report.quality_page import quality_sections
from shutterless.workflows.report.report import CUBE_TOPICS, TOPICS, choose_topics, store_sections, write_report

N_FRAMES, FLARE, FLAGGED, UNTIMED, GAP = 200, 120, [60, 61], [30], (150, 20)
RISE = {0: 0.8, 1: 0.4, 2: 0.2, 3: 0.1}  # of the light, cadence by cadence after the peak
GAP_ROWS = range(GAP[0], GAP[0] + GAP[1])


def write_flare(path):
    """200 cadences of a star in 5 x 7 pixels, with a flare of 80 %; three more are masked and 20 not in the file."""
    light = star_images(N_FRAMES, sky_e_s=0.0)
    for later, share in RISE.items():
        light[FLARE + later] *= 1 + share
    flags = np.zeros(N_FRAMES, dtype=np.int32)
    flags[FLAGGED] = 4
    numbers = 1000 + np.arange(N_FRAMES)
    numbers[GAP[0] :] += GAP[1]
    aperture = np.ones((5, 7), dtype=np.int32)
    aperture[1:4, 2:5] += 2
    return write_kepler(path, light, numbers=numbers, untimed=UNTIMED, columns={"QUALITY": flags}, aperture=aperture)


def write_quiet(path):
    """A plain cube of 12 images of 6 x 8 pixels every 2 s."""
    images = np.random.default_rng(4).poisson(400.0, (12, 6, 8)).astype(np.float32)
    return write_plain(path, images, header={"DATE-OBS": "2026-03-04T05:06:07"})


def make_candidate(cube, row_peak, *, y=2, x=3.0, snr=50.0, n_rows=4, amplitude_e=1.3e6, star=0, veto="", group=None):
    readout = cube.readout
    name = f"{cube.entry}_y{y:04d}_x{x:07.2f}_r{row_peak:07d}"
    utc = readout.read_utc([row_peak])[0]
    values = {"candidate_id": name, "group_id": group or name, "file": cube.file, "y": y, "x": x, "snr": snr}
    values |= {"row_start": row_peak, "row_stop": row_peak + n_rows - 1, "row_peak": row_peak}
    values |= {"duration_s": n_rows / readout.row_rate_hz, "streak_id": star, "amplitude_e": amplitude_e}
    values |= {"time_archive": float(readout.archive_time(row_peak)), "veto": veto, "model": "template-bank"}
    values |= dict.fromkeys(("time_read_utc", "time_event_min_utc", "time_event_max_utc"), utc)
    return {column: values.get(column) for column in CANDIDATE_TYPES}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Folder of a search of two cubes with four candidates, two of one group, without the search's record."""
    folder = tmp_path_factory.mktemp("search")
    rows = [ingest_amplifier(write(folder / name), None, folder / "store") for write, name in FILES]
    write_manifest(folder / "store", rows)
    cube, quiet = (open_amplifier(folder / "store", row["entry"]) for row in rows)
    candidates = pd.DataFrame(
        [
            make_candidate(quiet, 5, y=1, x=6.3, snr=7.0, n_rows=1, amplitude_e=90.0, star=None),
            make_candidate(cube, 40, snr=-9.0, amplitude_e=-1e4),
            make_candidate(cube, FLARE),
            make_candidate(cube, FLARE + 1, snr=20.0, x=2.0, group=make_candidate(cube, FLARE)["candidate_id"]),
        ]
    ).astype(CANDIDATE_TYPES)
    candidates.to_parquet(folder / "candidates.parquet")
    candidates.iloc[:1].assign(veto="edge", snr=40.0).to_parquet(folder / "vetoed.parquet")
    amplifiers = {"files": ["flare<1>.fits", "quiet.fits"], "ccd": [None] * 2, "quadrant": [None] * 2}
    amplifiers |= {"n_rows": [220, 12], "n_triggers": [3, 1], "live_hours": [0.1, 0.1]}
    pd.DataFrame(amplifiers).to_parquet(folder / "amplifiers.parquet")
    failures = {"file": ["bad.fits"], "quadrant": [None], "reason": ["is empty (0 bytes)"]}
    pd.DataFrame(failures).to_parquet(folder / "failures.parquet")
    return folder


FILES = ((write_flare, "flare<1>.fits"), (write_quiet, "quiet.fits"))


@pytest.fixture(scope="module")
def report(search):
    return write_report(search).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def cube(search):
    return CubeEntry(search / "store" / "flare<1>_c00_q0")


def section_of(html, anchor):
    return re.search(rf'<section id="{re.escape(anchor)}">(.*?)</section>', html, re.S).group(1)


def rows_of(html):
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", html)]


def cells_of(table):
    """Heading and text of every cell, row by row."""
    header = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table.split("</table>")[0])
    rows = re.findall(r"<tr>(<td.*?)</tr>", table.split("</table>")[0], re.S)
    return [dict(zip(header, re.findall(r"<td[^>]*>(.*?)</td>", row), strict=True)) for row in rows]


def fake_amplifier(residual, level_e=100.0, sigma_e=10.0):
    """An amplifier of constant level and noise; residual is (y, x, t)."""
    residual = np.asarray(residual, dtype=np.float16)

    def expand(value):
        return lambda y, columns, start, stop: np.full(residual[y, columns, start:stop].shape, value, np.float32)

    return SimpleNamespace(
        residual=residual, n_rows=residual.shape[2], level_rows=expand(level_e), sigma_rows=expand(sigma_e)
    )


def test_report_of_cubes_has_its_own_sections_and_leaves_none_out(report):
    assert re.findall(r'<section id="([\w-]+)">', report) == [topic.anchor for topic in CUBE_TOPICS]
    assert "Left out" not in report
    assert "bad.fits" in section_of(report, "failures")
    assert "candidates.parquet" in section_of(report, "places")


def test_report_of_cubes_refers_to_nothing_outside_itself_and_is_escaped(report):
    targets = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", report)
    assert targets
    assert all(target.startswith(("data:image/", "#", "report/")) for target in targets)
    assert "<1>" not in report
    assert "flare&lt;1&gt;" in report
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">', report)
    assert len(images) == report.count("<img ") == 3 + 3  # pixels, light, every pixel; three groups of candidates
    assert all(base64.b64decode(data, validate=True).startswith(b"\x89PNG") and alt for data, alt in images)


def test_pages_of_cubes_fit_the_window(search, report, tmp_path):
    assert find_overflow(report, tmp_path) == []
    assert find_overflow(write_report(search / "store").read_text(encoding="utf-8"), tmp_path) == []


def test_a_report_opens_the_cube_that_it_shows_once(search, monkeypatch):
    opened = []

    def record(store, entry):
        opened.append(entry)
        return open_amplifier(store, entry)

    monkeypatch.setattr(cube_entry, "open_amplifier", record)
    run = RunFolder(search)
    views = ["cubes", "pixels", "light", "every-pixel", "cosmic-rays"]
    topics = [topic for topic in CUBE_TOPICS if topic.anchor in views]
    assert [topic.anchor for topic in topics] == views
    assert all(topic.write(run) for topic in topics)
    assert opened == ["flare<1>_c00_q0"]
    cube_sections.write_cubes(RunFolder(search))
    assert opened == ["flare<1>_c00_q0"] * 2  # another view of the folder may show another cube


def test_two_reports_of_one_folder_are_the_same(search, report):
    assert write_report(search).read_text(encoding="utf-8") == report


def test_light_of_all_pixels_shows_the_flare_of_80_percent_at_its_time(cube):
    light, label = relative_light(cube.total_e)
    assert label == "Light − median (% of median)"
    assert np.nanargmax(light) == FLARE
    for later, share in RISE.items():
        assert light[FLARE + later] == pytest.approx(100 * share, abs=1)  # noise is 0.08 %
    quiet = np.delete(light, range(FLARE, FLARE + 4))
    assert np.nanmax(np.abs(quiet)) < 0.5
    assert cube.time[FLARE] - cube.time[0] == pytest.approx(FLARE * KEPLER_CADENCE_D * (1 + LIGHT_DRIFT), abs=1e-6)


def test_masked_cadences_and_those_not_in_the_file_have_no_light(cube):
    masked = np.flatnonzero(np.isnan(cube.total_e))
    np.testing.assert_array_equal(masked, [*UNTIMED, *FLAGGED, *GAP_ROWS])
    words = cube_sections._describe_masked(cube)
    assert words == (
        "23 cadences (10.5 %): 20 not in the file, 2 flagged, 1 without time, pointing or pixels; "
        "0 single pixels of the others"
    )


def test_light_curve_is_drawn_with_gap_ticks_and_the_numbers_of_the_list(search, report, monkeypatch):
    drawn = []
    plot = cube_sections.plot_summed_light

    def record(time, light, ax, **options):
        drawn.append((time, light, options))
        return plot(time, light, ax, **options)

    monkeypatch.setattr(cube_sections, "plot_summed_light", record)
    cube_sections.write_view(cube_sections.draw_light, RunFolder(search))
    time, light, options = drawn[0]
    assert np.isnan(light[list(GAP_ROWS)]).all()  # a line breaks at NaN: the gap is not bridged
    assert len(time) == len(light) == N_FRAMES + GAP[1]
    table = cells_of(section_of(report, "candidates"))
    of_cube = {
        number_of(row): float(row["archive time"]) for row in table if row["candidate"].startswith("flare&lt;1&gt;")
    }
    assert list(of_cube) == [1, 2, 3]  # by S/N whatever its sign; the second is in the first one's group
    assert options["marked"] == pytest.approx({n: of_cube[n] for n in (1, 3)}, abs=1e-5)
    assert of_cube[1] == pytest.approx(time[FLARE], abs=1e-5)


def test_aperture_of_the_archive_has_a_light_curve_of_its_own(cube):
    titles = [title for title, _, _ in cube_sections._summed_curves(cube)]
    assert titles[:2] == ["all pixels", "archive's aperture (9 pixels)"]
    light = cube_sections._summed_curves(cube)[1][1]
    np.testing.assert_allclose(light, read_light(cube.amplifier)[cube.aperture].sum(axis=0), rtol=1e-5)


def test_list_of_cubes_tells_size_cadence_and_candidates(report):
    table = rows_of(section_of(report, "cubes"))
    assert [row[0] for row in table] == ["flare&lt;1&gt;_c00_q0", "quiet_c00_q0"]
    assert [row[3] for row in table] == ["7 × 5", "8 × 6"]
    assert [row[4] for row in table] == ["220", "12"]
    assert [row[6] for row in table] == ["29.4\u00a0min", "2\u00a0s"]
    assert [row[-1] for row in table] == ["3", "1"]
    assert "the sections below show flare&lt;1&gt;_c00_q0" in section_of(report, "cubes")
    assert "BJD − 2454833 (TDB)" in section_of(report, "cubes")


def number_of(row):
    return int(re.sub(r"<.*?>", "", row["#"]))


def test_candidates_are_listed_by_group_with_readable_numbers(search, report):
    section = section_of(report, "candidates")
    assert "4 candidates in 3 groups of one cause each" in section
    rows = cells_of(section)
    first, last = rows[0], rows[-1]
    assert [number_of(row) for row in rows] == [1, 2, 3, 4]
    assert first["UTC"].startswith("2018-05-15T")
    assert (first["x"], first["y"], first["duration (h)"], first["S/N"]) == ("3.0", "2", "1.96", "50.0")
    assert [row["group"] for row in rows] == ["of 2", "↳", "–", "–"]
    assert float(last["amplitude (%)"]) == pytest.approx(100 * 90 / (400 * 48), rel=0.01)
    assert "probability" not in first  # none is given
    assert section.count('<div class="card abreast"') == 3
    assert "<dt>Group</dt><dd>2 candidates: this, " in section
    assert "<dt>Place</dt><dd>x = 3.00, y = 2</dd>" in section
    assert re.search(r"<dt>Amplitude</dt><dd>1,300,000 e⁻ per cadence \([\d.]+ % of star\)</dd>", section)


def test_images_and_light_curve_of_a_candidate_lie_beside_the_page(search, report, cube):
    (name,) = re.findall(r'href="(report/[^"]+)\.fits"', section_of(report, "candidates"))[:1]
    with fits.open(search / f"{unquote(name)}.fits") as hdus:
        cut, noise, header = hdus[0].data, hdus["NOISE"].data, hdus[0].header
    assert cut.shape == noise.shape == (2 * 24 + 4, 5, 7)
    peak = FLARE - int(header["CRVAL3"])
    assert np.unravel_index(np.nanargmax(cut), cut.shape) == (peak, 2, 3)
    curve = Table.read(search / f"{unquote(name)}.ecsv")
    assert curve["row"][np.nanargmax(curve["light"])] == FLARE
    assert curve["after_peak"][peak] == 0
    np.testing.assert_allclose(curve["time_archive"], cube.time[curve["row"]])
    np.testing.assert_allclose(curve["light"][peak], cube.total_e[FLARE], rtol=1e-4)


def test_candidate_whose_store_is_gone_keeps_its_numbers(search, tmp_path):
    candidates = pd.read_parquet(search / "candidates.parquet")
    gone = candidates.assign(file=["gone.fits", *candidates["file"][1:]])
    gone.to_parquet(tmp_path / "candidates.parquet")
    (tmp_path / "store").symlink_to(search / "store")
    section = section_of(write_report(tmp_path).read_text(encoding="utf-8"), "candidates")
    assert "No picture: no entry of this cube in the store." in section
    assert section.count("<img ") == 2
    assert "<dt>S/N</dt><dd>7.00</dd>" in section


def test_search_without_candidates_shows_the_first_cube(search, tmp_path):
    pd.read_parquet(search / "candidates.parquet").iloc[:0].to_parquet(tmp_path / "candidates.parquet")
    (tmp_path / "store").symlink_to(search / "store")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "The search found no candidates." in section_of(html, "candidates")
    assert "Orange" not in section_of(html, "light")
    assert html.count("<img ") == 3


def test_images_of_a_card_are_before_at_and_after_the_event_with_masked_pixels(search, monkeypatch):
    drawn = []
    plot = cube_cards.plot_residual_image

    def record(residual, ax, **options):
        drawn.append((residual, options))
        return plot(residual, ax, **options)

    monkeypatch.setattr(cube_cards, "plot_residual_image", record)
    run = RunFolder(search)
    cube_cards.image_picture(CubeEntry(search / "store" / "flare<1>_c00_q0"), run.candidates.iloc[0])
    before, peak, after = (residual for residual, _ in drawn)
    assert peak[2, 3] > 100 > 10 > np.abs(before[2, 3])
    assert np.abs(after[2, 3]) < 10
    assert len({options["limit_sigma"] for _, options in drawn}) == 1  # one scale of colours
    assert drawn[1][1]["limit_sigma"] == pytest.approx(peak[1:4, 2:5].max())
    assert [options["place"] for _, options in drawn] == [(3.0, 2)] * 3
    assert [options["bar"] for _, options in drawn] == [False, False, True]


def test_page_of_a_store_of_cubes_shows_every_cube_without_candidates(search):
    html = write_report(search / "store").read_text(encoding="utf-8")
    assert re.findall(r'<section id="([^"]+)">', html) == ["cubes", "cube-pictures", "failures"]
    assert html.count("<img ") == 6
    views = ["The pixels", "Light curve", "Every pixel", "Cosmic rays"]
    pictures = section_of(html, "cube-pictures")
    assert re.findall(r"<h3>([^<]*)</h3>", pictures) == ["flare&lt;1&gt;_c00_q0", *views, "quiet_c00_q0", *views]
    assert pictures.count("Noise / expected") == 2
    assert 'href="#entry-flare&lt;1&gt;_c00_q0"' in section_of(html, "cubes")
    assert 'id="entry-flare&lt;1&gt;_c00_q0"' in pictures
    assert "Candidates" not in html


def test_page_of_a_store_shows_the_cubes_that_are_asked_for(search, monkeypatch):
    cards = cube_store_sections(search / "store", ["quiet_c00_q0"])[1].parts
    assert [card.heading for card in cards] == ["quiet_c00_q0"]
    monkeypatch.setattr(cube_sections, "MAX_CUBE_SECTIONS", 1)
    sections = cube_store_sections(search / "store")
    assert len(sections[1].parts) == 1
    words = sections[0].parts[0].text
    assert "Pictures follow of 1 of them; `shutterless report store --entry ENTRY` shows any other." in words
    with pytest.raises(StoreError, match=r"no entry 'nosuch'; it holds flare<1>_c00_q0, quiet_c00_q0"):
        cube_store_sections(search / "store", ["nosuch"])


def write_amplifier(store):
    """One amplifier of continuous readout; its row of the manifest."""
    rng = np.random.default_rng(2)
    readout = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, ccd=3, quadrant=2)
    description = {"file": "night.fits", "readout": readout.to_dict(), "psf_sigma_px": 0.9, "live_pixel_rows": 64 * 200}
    description |= {"pixel_rows_per_hour": 64 * 300 * 3600}
    arrays = {"baseline_e": np.full((1, 64, 4), 300, np.float32), "sigma_e": np.full((1, 64, 4), 20, np.float32)}
    arrays["row_residual"] = np.zeros(200, np.float32)
    streaks = pd.DataFrame({"streak_id": [0], "x": [30.0], "mag": [12.0], "flux_e_row": [900.0]})
    with EntryWriter(store, "night_c03_q2", n_columns=64, n_rows=200) as writer:
        writer.residual[0] = rng.normal(size=(64, 200))
        writer.finish(arrays, streaks, description)
    row = {"entry": "night_c03_q2", "file": "night.fits", "ccd": 3, "quadrant": 2, "n_rows": 200, "n_y": 1}
    return {
        **row,
        "n_columns": 64,
        "row_rate_hz": 300.0,
        "live_pixel_rows": 64 * 200,
        "pixel_rows_per_hour": 64 * 300 * 3600,
    }


def test_store_of_frames_has_the_quality_page_and_no_other(tmp_path):
    write_manifest(tmp_path, [write_amplifier(tmp_path)])
    assert store_sections(tmp_path) == quality_sections(tmp_path)


def test_store_of_both_shows_cubes_and_then_amplifiers(tmp_path):
    cube = ingest_amplifier(write_quiet(tmp_path / "quiet.fits"), None, tmp_path / "store")
    write_manifest(tmp_path / "store", [cube, write_amplifier(tmp_path / "store")])
    anchors = [section.anchor for section in store_sections(tmp_path / "store")]
    assert anchors == ["cubes", "cube-pictures", "amplifiers", "pictures"]
    chosen = store_sections(tmp_path / "store", ["quiet_c00_q0"])
    assert [section.anchor for section in chosen] == ["cubes", "cube-pictures", "amplifiers"]


def test_sections_are_those_of_the_entry_that_is_shown(search, tmp_path):
    assert choose_topics(RunFolder(search)) is CUBE_TOPICS
    write_manifest(tmp_path / "store", [write_amplifier(tmp_path / "store")])
    without_map = tuple(topic for topic in TOPICS if topic.anchor != "map")  # no candidate has a position
    assert choose_topics(RunFolder(tmp_path)) == without_map
    assert choose_topics(RunFolder(tmp_path / "nothing")) == without_map


def test_sum_of_light_solved_in_the_head():
    nan = np.nan
    # three pixels of level 100 and σ 10, and one that is always masked
    amplifier = fake_amplifier([[[1, 0, nan, nan], [2, 0, 3, nan]], [[0, nan, 1, 5], [nan, nan, nan, nan]]])
    whole = sum_light(amplifier, np.ones((2, 2), dtype=bool))
    np.testing.assert_allclose(
        whole, [330, 300, 340, np.nan]
    )  # an isolated masked pixel is at its level; one of three is few
    np.testing.assert_allclose(sum_light(amplifier, np.array([[True, False], [False, False]])), [110, 100, nan, nan])
    np.testing.assert_allclose(read_light(amplifier, slice(0, 1))[0, 1], [120, 100, 130, nan])
    assert cube_sections._count_isolated(amplifier, np.array([True, True, True, False])) == 2


def test_median_leaves_out_what_is_masked():
    np.testing.assert_array_equal(median_light(np.array([[1, np.nan, 3, 8], [np.nan] * 4])), [3, np.nan])


def test_light_that_is_lost_in_its_scatter_is_given_in_electrons():
    difference = np.array([-100.0, 100, -100, 100, 1, np.nan])
    light, label = relative_light(difference)
    np.testing.assert_array_equal(light, difference - 1)
    assert label == "Light − median (e⁻ per cadence)"
    np.testing.assert_allclose(relative_light(np.array([200.0, 200, 360]))[0], [0, 0, 80])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8827.0, "2.45 h"), (1765.46, "29.4 min"), (0.04, "40 ms"), (4.4e6, "50.9 d"), (12.0, "12 s"), (np.nan, "–")],
)
def test_durations_are_readable(seconds, words):
    assert duration_text(seconds) == words


@pytest.mark.parametrize(
    ("scale", "label"),
    [
        ("BJD - 2454833 (TDB)", "Time (BJD − 2454833 (TDB); days)"),
        ("seconds since 2026-03-04T05:06:07.000000 (UTC)", "Time (seconds since 2026-03-04T05:06:07 (UTC))"),
        ("days", "Time (days)"),
        ("", "Archive's time"),
    ],
)
def test_axis_of_time_names_its_scale_and_unit(scale, label):
    assert time_label(scale) == label


def test_name_of_a_scale_keeps_its_dates():
    assert (
        scale_text("seconds since 2026-03-04T05:06:07.250000 (UTC)") == "seconds since 2026-03-04T05:06:07.250000 (UTC)"
    )


def test_times_of_the_archive_are_written_to_a_fraction_of_a_cadence(search):
    kepler, plain = (open_amplifier(search / "store", entry) for entry in ("flare<1>_c00_q0", "quiet_c00_q0"))
    assert archive_text(3435.402755822743, kepler) == "3435.40276"  # a second; cadences take 0.02 d
    assert archive_text(7.0, plain) == "7.000"


def test_light_curve_is_drawn_twice_only_where_few_cadences_hide_the_rest():
    steady = np.sin(np.arange(1000.0))
    assert calm_limits(steady) is None
    steady[500] = 180.0
    low, high = calm_limits(steady)
    assert (low, high) == pytest.approx((-2, 2), abs=0.01)  # ±1 and half of 2 on either side
    assert calm_limits(np.full(5, np.nan)) is None
    assert calm_limits(np.ones(5)) is None


def test_window_of_a_card_is_the_event_and_24_cadences_or_three_lengths_on_either_side():
    assert shown_rows(pd.Series({"row_start": 100, "row_stop": 103}), 1000) == slice(76, 128)
    assert shown_rows(pd.Series({"row_start": 100, "row_stop": 119}), 150) == slice(40, 150)
    assert shown_rows(pd.Series({"row_start": 2, "row_stop": 2}), 20) == slice(0, 20)


def test_images_are_of_the_next_live_cadences():
    live = np.ones(100, dtype=bool)
    live[[49, 54]] = False
    short = image_rows(pd.Series({"row_start": 50, "row_stop": 53, "row_peak": 50}), live)
    assert {title: rows.tolist() for title, rows in short.items()} == {"before": [48], "peak": [50], "after": [55]}
    long = image_rows(pd.Series({"row_start": 50, "row_stop": 73, "row_peak": 50}), live)
    assert long["before"].tolist() == [46, 47, 48]  # an eighth of 24
    assert long["peak"].tolist() == [50, 51, 52]
    edge = image_rows(pd.Series({"row_start": 0, "row_stop": 99, "row_peak": 99}), live)
    assert (edge["before"].size, edge["after"].size, edge["peak"].tolist()) == (0, 0, list(range(88, 100)))


def test_event_at_the_edge_of_the_file_has_no_image_beyond_it(cube):
    candidate = pd.Series(make_candidate(cube.amplifier, 0, n_rows=2))
    drawing = new_figure(9, 4).subfigures(1, 1)
    cube_cards._draw_images(cube, candidate, drawing)
    titles = [ax.get_title() for ax in drawing.axes if ax.get_title()]
    assert titles == ["no live cadence before", "peak: cadence 0", "after: cadence 2 (+58.8 min)"]


def test_joined_images_keep_unit_noise():
    residual = np.random.default_rng(1).normal(size=(40, 50, 16))
    amplifier = SimpleNamespace(residual=residual)
    joined = cube_cards._join_cadences(amplifier, slice(0, 40), slice(0, 50), np.arange(16))
    assert joined.shape == (40, 50)
    assert joined.std() == pytest.approx(1, abs=0.05)  # three times the error of 2000 draws


def test_amplitude_is_relative_to_the_star_or_to_all_light():
    streaks = pd.DataFrame({"streak_id": [4], "flux_e_row": [2e6]})
    cube = SimpleNamespace(amplifier=SimpleNamespace(streaks=streaks), total_e=np.array([1e7, 1e7, np.nan]))
    assert relative_amplitude(pd.Series({"streak_id": 4, "amplitude_e": 3.6e6}), cube) == (180, "star")
    assert relative_amplitude(pd.Series({"streak_id": pd.NA, "amplitude_e": -1e5}), cube) == (-1, "all")
    cube.total_e = -cube.total_e
    assert relative_amplitude(pd.Series({"streak_id": pd.NA, "amplitude_e": 1e5}), cube)[1] == ""
    assert relative_amplitude(pd.Series({"streak_id": 4, "amplitude_e": 1.0}), None)[1] == ""


def test_of_a_large_cube_the_pixels_around_the_brightest_star_get_light_curves(tmp_path):
    images = np.random.default_rng(4).poisson(400.0, (24, 20, 30)).astype(np.float32)
    images[:, 15, 4] += 9000
    images[:, 14:17, 3:6] += 3000
    row = ingest_amplifier(write_plain(tmp_path / "wide.fits", images), None, tmp_path / "store")
    cube = CubeEntry(tmp_path / "store" / row["entry"])
    assert shown_pixels(cube) == (slice(5, 20), slice(0, 15))
    (shown,) = cube_sections.draw_every_pixel(cube, pd.DataFrame({"x": [], "y": []}))
    assert "15 × 15 of 30 × 20 pixels, around the brightest star." in shown.caption
    cube.amplifier = replace(cube.amplifier, streaks=cube.amplifier.streaks.iloc[:0])
    assert shown_pixels(cube) == (slice(5, 20), slice(0, 15))  # around the brightest pixel


def test_cube_without_extra_arrays_is_reported(search, tmp_path):
    entry = tmp_path / "store" / "bare"
    entry.parent.mkdir()
    source = search / "store" / "flare<1>_c00_q0"
    entry.mkdir()
    for file in source.iterdir():
        if file.stem not in ("quality", "pixel_noise", "aperture", "motion_px"):
            (entry / file.name).symlink_to(file)
    parts = cube_sections.describe_cube(entry)
    captions = [part.caption for part in parts if isinstance(part, Picture)]
    assert len(captions) == 3
    assert ("Noise / expected", "unknown") in parts[0].pairs
    assert not any("archive's aperture" in caption for caption in captions)
