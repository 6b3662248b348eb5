import base64
import json
import re
import shutil
from dataclasses import asdict
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from browser import ask_browser, find_overflow
from tiny_frames import N_COLUMNS, SKY_E, add_pulse, expose, write_sequence

from shutterless.models.evaluation.forced_choice import ForcedChoice, judge_labels
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.candidates import empty_candidates, write_candidates
from shutterless.pipeline.store.store import EntryWriter, read_manifest, write_manifest
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.pages.drawings import new_figure
from shutterless.workflows.pages.run_folder import Pictured, RunFolder, describe_group, in_groups
from shutterless.workflows.report import pictures
from shutterless.workflows.report.candidate_cards import (
    bin_time,
    cut_window,
    describe_match,
    matched_light_curve,
    window_rows,
)
from shutterless.workflows.report.report import (
    EVALUATION_TOPICS,
    SWEEP_TOPICS,
    TOPICS,
    ReportError,
    write_night_reports,
    write_report,
)
from shutterless.workflows.report.run_sections import find_nights
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import SearchSettings

RATE_HZ = 304.0
FILE = "night<b>&1_000.fits.fz"
READOUT = Readout(
    row_rate_hz=RATE_HZ,
    gain_e_per_adu=6.2,
    read_noise_e=10.0,
    saturation_adu=50000.0,
    n_transit=3080,
    first_row=4000,
    shutter_open_utc="2026-03-04T05:06:07.000",
    sequence="night",
    ccd=3,
    quadrant=2,
    zero_point_mag=26.3,
)
DETECTORS = ("template-bank", "transformer", "cnn", "mlp")
KINDS = ("flare", "burst", "occultation")


def write_frame(path, rng, n_rows, star_x, mag):
    """A file in the archive's layout: sky of 60 ADU, Gaussian streaks and the bias of 1000 ADU."""
    columns = np.arange(3072)
    flux_adu = 10 ** (-0.4 * (mag - READOUT.zero_point_mag)) / RATE_HZ / 6.2
    light = 60 + sum(f * pixel_profile(columns - x, 0.85) for f, x in zip(flux_adu, star_x, strict=True))
    primary = fits.PrimaryHDU()
    for key, value in {"CCD_ID": 3, "ROWRATE": RATE_HZ, "SHUTOPEN": READOUT.shutter_open_utc, "SEQID": "night"}.items():
        primary.header[key] = value
    primary.header["SEQROW0"] = READOUT.first_row
    hdus = [primary]
    for n_columns, mean in ((3072, light), (30, 0.0)):
        for amplifier in range(1, 5):
            counts = (
                1000
                + mean
                + rng.normal(0, 3.0, (n_rows, n_columns))
                + rng.normal(size=(n_rows, n_columns)) * np.sqrt(mean / 6.2)
            )
            hdu = fits.CompImageHDU(np.rint(counts).astype(np.int16), compression_type="RICE_1")
            hdu.header.update({"AMP_ID": amplifier, "GAIN": 6.2, "READNOI": 10.0, "SATURATE": 50000.0})
            hdus.append(hdu)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path)
    return light


def write_entry(store, rng, n_rows, star_x, mag, light, candidates):
    """A calibrated amplifier with a Gaussian pulse at each candidate."""
    residual = rng.normal(size=(light.size, n_rows)).astype(np.float32)
    t = np.arange(n_rows)
    for _, row in candidates.iterrows():
        shape = np.exp(-0.5 * ((t - row["row_peak"]) / max(1, row["row_stop"] - row["row_start"]) * 2.5) ** 2)
        pulse = np.outer(pixel_profile(np.arange(light.size) - row["x"], 0.85), shape)
        residual += row["snr"] * pulse / np.sqrt((pulse**2).sum())
    residual[1400:1402] = np.nan
    n_blocks = -(-n_rows // 64)
    baseline = np.repeat(light[None, :, None] * 6.2, n_blocks, axis=2).astype(np.float32)
    streaks = pd.DataFrame({"streak_id": np.arange(star_x.size), "x": star_x, "mag": mag})
    streaks["y0"] = np.nan
    arrays = {
        "baseline_e": baseline,
        "sigma_e": np.sqrt(baseline + 100),
        "row_residual": np.zeros(n_rows, np.float32),
    }
    description = {"file": FILE, "readout": READOUT.to_dict(), "psf_sigma_px": 0.85, "live_pixel_rows": residual.size}
    with EntryWriter(store, "night_c03_q2", n_columns=light.size, n_rows=n_rows) as entry:
        entry.residual[0] = residual
        entry.finish(arrays, streaks, description)
    row = {"entry": "night_c03_q2", "file": FILE, "ccd": 3, "quadrant": 2, "n_rows": n_rows, "first_row": 4000}
    per_hour = 3072 * int(RATE_HZ * 3600)
    row |= {"row_rate_hz": RATE_HZ, "live_pixel_rows": 2 * per_hour, "pixel_rows_per_hour": per_hour}
    write_manifest(store, [row])


def make_candidates(star_x, n_rows):
    """A flare, a long occultation, an orphan burst, a second column of the flare's group, and a vetoed cosmic ray."""
    rows = []
    looks = [
        ("flare", star_x[0], 20, 11.3, 0.999, "", "g0"),
        ("occultation", star_x[1], 90, -9.4, 0.98, "", "g1"),
        ("burst", 800.3, 2, 8.1, 0.91, "", None),
        ("flare", star_x[0] + 4, 20, 6.2, 0.88, "", "g0"),
        ("cosmic_ray", 1404.0, 1, 30.0, 0.999, "sharp", None),
    ]
    for number, (kind, x, n, snr, probability, veto, group) in enumerate(looks):
        peak = n_rows // 2 + 20 * number
        utc = READOUT.read_utc([peak])[0]
        early, late = READOUT.event_utc_range([peak])
        rows.append(
            {"candidate_id": f"c{number}", "group_id": group, "file": FILE, "ccd": 3, "quadrant": 2, "y": 0, "x": x}
            | {"row_start": peak - n // 2, "row_stop": peak + n // 2, "row_peak": peak, "duration_s": n / RATE_HZ}
            | {"snr": snr, "probability": probability, "kind": kind, "kind_probability": 0.9, "amplitude_e": 512.0}
            | {"streak_id": number if number < 2 else None, "star_mag": 11.2 if number < 2 else np.nan}
            | {
                "time_archive": None,
                "time_read_utc": utc,
                "time_event_min_utc": early[0],
                "time_event_max_utc": late[0],
            }
            | {"veto": veto, "model": "transformer"}
        )
    return pd.DataFrame(rows).astype({"streak_id": "Int64"})


def write_evaluation(folder):
    """Tables of four detectors; the transformer is best."""
    folder.mkdir(parents=True)
    rho = np.arange(2.0, 14.0)
    summary, completeness, reliability = [], [], []
    for place, name in enumerate(DETECTORS):
        eta = (6.9, 7.0, 7.3, 7.9)[place]
        share = float(np.mean(1 / (1 + np.exp(-1.6 * (rho - eta)))))
        summary.append(
            {"detector": name, "family": name, "shuffled": False}
            | {"n_parameters": 0 if place == 0 else 100_000 * place, "threshold": 0.5 + place / 20}
            | {"false_alarms": 20 - 6 * place, "live_hours": 2.0, "rate_per_hour": 10 - 1.5 * place}
            | {"rate_low": 7 - place, "rate_high": 14 - place, "n_events": 1200, "completeness": share}
            | {"completeness_low": share - 0.03, "completeness_high": share + 0.03, "rho50": eta}
            | {"rho50_low": eta - 0.15, "rho50_high": eta + 0.15, "loss_mag": 2.5 * np.log10(eta / 6.0)}
            | {"train_seconds": np.nan if place == 0 else 300.0 + place, "strips_per_second": 900.0 * (place + 1)}
        )
        for kind in ("all", *KINDS):
            c = 1 / (1 + np.exp(-1.6 * (rho + 0.5 - eta)))
            part = {
                "detector": name,
                "kind": kind,
                "rho_low": rho,
                "rho_high": rho + 1,
                "n": 50,
                "found": np.rint(50 * c),
            }
            completeness.append(
                pd.DataFrame({**part, "completeness": c, "low": c - 0.06 * c, "high": c + 0.06 * (1 - c)})
            )
        edges = np.linspace(0, 1, 11)
        middle = (edges[:-1] + edges[1:]) / 2
        part = {"detector": name, "probability_low": edges[:-1], "probability_high": edges[1:], "n": np.arange(10) * 15}
        observed = np.clip(middle + 0.03 * np.sin(6 * middle + place), 0, 1)
        reliability.append(pd.DataFrame({**part, "mean_probability": middle, "observed_fraction": observed}))
    pd.DataFrame(summary).to_parquet(folder / "summary.parquet")
    pd.concat(completeness).to_parquet(folder / "completeness.parquet")
    pd.concat(reliability).to_parquet(folder / "reliability.parquet")
    apart = {"detector": "cnn", "kind": "eclipse", "n": 8, "found": 6, "fraction": 0.75, "low": 0.41, "high": 0.93}
    pd.DataFrame([apart]).to_parquet(folder / "apart.parquet")
    groups = {"group": "all", "n": 1200, "found": 900, "completeness": 0.75, "low": 0.72, "high": 0.78}
    pd.DataFrame([{**groups, "detector": name} for name in DETECTORS]).to_parquet(folder / "groups.parquet")
    losses = {"rho": "below 7", "n": 50, "found": 14, "no trigger": 28, "gated": 0, "below threshold": 8}
    pd.DataFrame([{**losses, "detector": name} for name in DETECTORS]).to_parquet(folder / "losses.parquet")
    (folder / "eta.json").write_text(json.dumps({"eta": 6.1, "rate_per_hour": 10.0}))
    (folder / "verdict.txt").write_text(
        "The template bank finds most, but its bounds overlap with the transformer's.\n"
    )


def write_histories(folder):
    for place, name in enumerate(DETECTORS[1:]):
        step = np.arange(0, 2000, 50)
        train = pd.DataFrame({"step": step, "split": "train", "loss": 0.2 + 0.6 * np.exp(-step / 400)})
        check = train[::4].assign(split="validation", loss=lambda t: t["loss"] + 0.02 + t["step"] * 1e-5)
        (folder / name).mkdir(parents=True)
        pd.concat([train, check]).assign(epoch=place, seconds=1.0).to_parquet(folder / name / "history.parquet")


def write_controls(folder):
    """A CNN that learned from its labels, and an MLP that did not."""
    folder.mkdir()
    judged = [
        judge_labels("cnn", ForcedChoice(0.74, 0.012), [0.51, 0.49, 0.51]),
        judge_labels("mlp", ForcedChoice(0.51, 0.012), [0.51, 0.49, 0.5]),
    ]
    pd.DataFrame([asdict(control) for control in judged]).to_parquet(folder / "summary.parquet")


def write_example(folder, n_rows=300):
    """A run folder with every part that a report can show."""
    rng = np.random.default_rng(20260304)
    star_x = rng.uniform(20, 3050, 120)
    mag = 18 - rng.exponential(1.6, 120)
    light = write_frame(folder / "frames" / "heldout" / FILE, rng, n_rows, star_x, mag)
    candidates = make_candidates(star_x, n_rows)
    write_entry(folder / "store" / "heldout", rng, n_rows, star_x, mag, light, candidates)
    write_evaluation(folder / "evaluation")
    write_histories(folder / "models")
    write_controls(folder / "controls")
    (folder / "search").mkdir()
    candidates.to_parquet(folder / "search" / "candidates.parquet")
    matches = {"candidate_id": ["c0", "c1"], "event_id": [17, 23], "kind": ["flare", "occultation"], "rho": [12.0, 9.0]}
    pd.DataFrame(matches).to_parquet(folder / "search" / "matches.parquet")
    vetoed = candidates.iloc[[4, 2]].assign(candidate_id=["v0", "v1"], veto=["sharp", "edge"], snr=[300.0, 20.0])
    vetoed.to_parquet(folder / "search" / "vetoed.parquet")
    (folder / "search" / "search.json").write_text(json.dumps({"vetoed": {"sharp": 41, "edge": 1}}))
    failures = {"file": ["a<script>.fits"], "quadrant": [4], "reason": ["all pixels equal 0; the amplifier is skipped"]}
    pd.DataFrame(failures).to_parquet(folder / "failures.parquet")
    (folder / "settings.toml").write_text(
        'name = "quick & small"\n[simulate]\nseed = 7\n[train.transformer]\nseed = 8\n'
    )
    return folder


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    folder = write_example(tmp_path_factory.mktemp("run"))
    return folder, write_report(folder).read_text(encoding="utf-8")


def section_of(html, anchor):
    return re.search(rf'<section id="{anchor}">(.*?)</section>', html, re.S).group(1)


def test_full_report_has_every_section_and_leaves_none_out(full_run):
    _, html = full_run
    assert re.findall(r'<section id="(\w+)">', html) == [topic.anchor for topic in TOPICS if topic.anchor != "map"]
    assert "Left out" not in html


def test_report_fetches_nothing_and_links_to_files_beside_it(full_run):
    folder, html = full_run
    targets = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", html))
    beside = {target for target in targets if not target.startswith(("data:image/", "#"))}
    files = {unquote(target) for target in beside}  # of the pictured candidates
    assert files == {f"report/{name}.{kind}" for name in ("c0", "c1", "c2", "c4") for kind in ("fits", "ecsv")}
    assert all((folder / file).is_file() for file in files)
    assert html.count("<script") == html.count("<script>") == 1
    for tag in ("<link", "<iframe", "@import"):
        assert tag not in html


def test_every_picture_is_a_complete_image_with_a_text_for_the_blind(full_run):
    _, html = full_run
    images = re.findall(r'<img src="data:image/(png|svg\+xml);base64,([^"]+)" alt="([^"]+)">', html)
    assert len(images) == html.count("<img ") == 11  # frame, streaks, five of detectors, four groups of candidates
    for kind, data, alt in images:
        content = base64.b64decode(data, validate=True)
        assert content.startswith(b"\x89PNG") if kind == "png" else content.rstrip().endswith(b"</svg>")
        assert alt


def test_file_names_and_settings_are_escaped(full_run):
    _, html = full_run
    assert "<b>" not in html
    assert "night&lt;b&gt;&amp;1_000.fits.fz" in html
    assert "a&lt;script&gt;.fits" in section_of(html, "failures")
    assert "name = &#34;quick &amp; small&#34;" in section_of(html, "run")


def test_run_section_tells_seeds_and_live_time(full_run):
    section = section_of(full_run[1], "run")
    assert "simulate.seed = 7, train.transformer.seed = 8" in section
    row = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    assert row == ["heldout", "1", "1", "300", "2"]  # 2 h of 3072 columns


def test_comparison_quotes_bounds_verdict_and_few_counts(full_run):
    section = section_of(full_run[1], "comparison")
    assert "its bounds overlap with the transformer&#39;s." in section
    assert "10 (7–14)" in section
    assert "7.00 (6.85–7.15)" in section
    assert section.count("†") == 3  # 8 and 2 alarms are fewer than ten, and the note explains the mark
    assert "aim at 10 false alarms per amplifier-hour" in section


def test_controls_tell_what_the_labels_taught(full_run):
    section = section_of(full_run[1], "controls")
    assert re.findall(r"<td[^>]*>([^<]*)</td>", section) == [
        "cnn", "74.0 ± 1.2 %", "50.3 ± 0.7 %", "3 times", "yes",
        "mlp", "51.0 ± 1.2 %", "50.0 ± 0.6 %", "3 times", "NO evidence",
    ]  # fmt: skip


def test_kinds_without_an_optimum_are_told_apart(full_run):
    section = section_of(full_run[1], "kinds")
    assert re.findall(r"<td[^>]*>([^<]*)</td>", section) == ["cnn", "eclipse", "6 of 8", "0.75 (0.41–0.93)"]


def test_events_that_are_found_and_lost_are_told_for_each_detector(full_run):
    section = section_of(full_run[1], "losses")
    found, lost = (cells_of(table) for table in section.split("</table>")[:2])
    assert found == [{"events": "all", "number": "1200", **dict.fromkeys(DETECTORS, "0.75 (0.72–0.78)")}]
    assert [(row["detector"], row["no trigger"], row["below threshold"]) for row in lost] == [
        (name, "28", "8") for name in DETECTORS
    ]


def test_folder_of_an_evaluation_has_a_report(full_run, tmp_path):
    shutil.copytree(full_run[0] / "evaluation", tmp_path / "evaluation")
    html = write_report(tmp_path / "evaluation").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', html) == [topic.anchor for topic in EVALUATION_TOPICS]
    assert "Left out" not in html
    assert "its bounds overlap with the transformer&#39;s." in section_of(html, "comparison")


def test_folder_of_a_sweep_has_a_report(tmp_path):
    trial = {"state": "complete", "epochs": 2, "n_parameters": 70_000, "seconds": 11.0, "reason": None}
    trials = pd.DataFrame(
        [
            {"family": "cnn", "trial": 0, "validation_loss": 0.51, **trial, "arch.channels": "[8, 16]"},
            {"family": "cnn", "trial": 1, "validation_loss": 0.42, **trial, "arch.channels": "[32]"},
            {"family": "mlp", "trial": 0, "validation_loss": 0.9, **trial, "train.learning_rate": 0.00323},
        ]
    )
    trials.to_parquet(tmp_path / "tune.parquet")
    (tmp_path / "settings.toml").write_text("[tune]\ntrials = 2\n")
    new_figure(2, 1).savefig(tmp_path / "tune.png")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', html) == [topic.anchor for topic in SWEEP_TOPICS]
    best = cells_of(section_of(html, "sweep"))
    assert [(row["family"], row["validation loss"], row["trials"]) for row in best] == [
        ("cnn", "0.4200", "2"),
        ("mlp", "0.9000", "1"),
    ]
    assert [row["hyperparameters"] for row in best] == ["channels [32]", "learning_rate 0.00323"]
    assert len(cells_of(section_of(html, "trials"))) == 3
    assert "trials = 2" in html
    (tmp_path / "tune.png").unlink()
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Left out: no tune.png in this folder." in section_of(html, "figure")


SPANS = {
    "first_read_utc": ["2026-03-05T03:00:00", "2026-03-04T02:00:00.000", "", "2026-03-04T11:00:00.000"],
    "last_read_utc": ["2026-03-05T09:00:00", "2026-03-04T06:00:00.000", "", "2026-03-04T12:00:00.000"],
}


def test_a_night_is_what_was_read_without_a_pause_of_six_hours():
    nights = find_nights(pd.DataFrame(SPANS))
    assert nights == [
        ("2026-03-04T02:00:00.000", "2026-03-04T12:00:00.000"),  # five hours apart
        ("2026-03-05T03:00:00", "2026-03-05T09:00:00"),
    ]
    assert find_nights(None) == find_nights(pd.DataFrame({"files": ["old"]})) == []


def test_each_night_has_a_page_with_all_its_candidates(full_run, tmp_path):
    candidates = pd.read_parquet(full_run[0] / "search" / "candidates.parquet")
    candidates["time_read_utc"] = 4 * ["2026-03-04T05:06:20.651316"] + ["2026-03-05T04:00:00.000000"]
    candidates.to_parquet(tmp_path / "candidates.parquet")
    pd.DataFrame(SPANS).to_parquet(tmp_path / "amplifiers.parquet")
    first, second = write_night_reports(tmp_path)
    assert (first.name, second.name) == ("night-2026-03-04.html", "night-2026-03-05.html")
    names = [row["candidate"] for row in cells_of(first.read_text(encoding="utf-8"))]
    assert names == ["c0", "c3", "c1", "c2"]
    assert second.read_text(encoding="utf-8").count('<div class="card') == 1
    with pytest.raises(ReportError, match=r"has no nights: its amplifiers.parquet names no UTC; give SHUTOPEN"):
        write_night_reports(full_run[0])


def test_a_search_says_when_how_and_with_what_it_was_run(tmp_path, full_run):
    shutil.copy(full_run[0] / "search" / "candidates.parquet", tmp_path)
    rows = {"files": ["a.fits", "b.fits, c.fits"], "ccd": [1, 1], "quadrant": [1, 2], "n_rows": [2000, 4000]}
    rows |= {"n_triggers": [4, 5], "live_hours": [0.1, 0.2], "threshold": [6.1, 6.5]}
    rows |= {"first_read_utc": ["2026-03-04T02:00:00.000", "2026-03-04T02:01:00.000"]}
    rows |= {"last_read_utc": ["2026-03-04T02:00:30.123", "2026-03-04T02:02:00.000"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "amplifiers.parquet")
    made = {"command": "shutterless search a.fits '<b>.fits'", "date_utc": "2026-03-05T01:02:03+00:00"}
    rates = {"asked_per_hour": 50.0, "expected_false_alarms": 15.0, "candidates": 5, "live_hours": 0.3}
    record = {"made": made, "rates": rates, "supplied": {"ROWRATE": "300"}, "files": {}, "instrument": "mine.toml"}
    (tmp_path / "search.json").write_text(json.dumps(record))
    section = section_of(write_report(tmp_path).read_text(encoding="utf-8"), "run")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section))
    assert facts == {
        "Date (UTC)": "2026-03-05T01:02:03",
        "Command": "shutterless search a.fits &#39;&lt;b&gt;.fits&#39;",
        "Model": "transformer",
        "Instrument": "mine.toml",
        "Given by --set": "ROWRATE = 300",
        "Read (UTC)": "2026-03-04T02:00:00 to 2026-03-04T02:02:00",
        "Threshold": "6.1 to 6.5",
        "Asked": "50 false alarms per amplifier-hour",
        "Expected false alarms": "15 among the 5 candidates, in 0.3 amplifier-hours",
    }
    assert re.findall(r"<td[^>]*>([^<]*)</td>", section) == ["3", "2", "2", "6,000", "0.3", "9", "–"]


def test_candidates_tell_numbers_and_truth(full_run):
    section = section_of(full_run[1], "candidates")
    # c4 is vetoed, in spite of its probability; c3 has no picture of its own
    assert cards_of(section) == ["1: c0", "3: c1", "4: c2", "5: c4", "2: c3 on demand"]
    assert "flare, event 17, ρ = 12.0" in section
    assert section.count("<dt>Injected event</dt><dd>none</dd>") == 3
    # rows 4000 + 150 at 304 Hz after 05:06:07 UTC
    assert "<dt>Read (UTC)</dt><dd>2026-03-04T05:06:20.651316</dd>" in section
    assert "<dt>Group</dt><dd>2 candidates: this, c3</dd>" in section


def cards_of(section):
    """Headings of the cards of a section, those that are shown on demand marked."""
    found = re.findall(r'<div class="card([^"]*)".*?<h3>(.*?)</h3>', section, re.S)
    return [heading + " on demand" * ("on-demand" in style) for style, heading in found]


def cells_of(table):
    """Heading and text of every cell, row by row."""
    header = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table)
    rows = re.findall(r"<tr>(<td.*?)</tr>", table, re.S)
    return [dict(zip(header, re.findall(r"<td[^>]*>(.*?)</td>", row), strict=True)) for row in rows]


def test_candidates_are_listed_by_what_an_astronomer_asks_first(full_run):
    rows = cells_of(section_of(full_run[1], "candidates"))
    assert list(rows[0])[:6] == ["#", "UTC", "S/N", "duration (ms)", "mag", "kind"]
    assert [row["candidate"] for row in rows] == ["c0", "c3", "c1", "c2", "c4"]
    assert [row["group"] for row in rows] == ["of 2", "↳", "–", "–", "–"]
    assert [row["S/N"] for row in rows] == ["11.3", "6.2", "−9.4", "8.1", "30.0"]
    assert rows[0]["#"] == '<a href="#candidate-1">1</a>'
    assert rows[1]["#"] == '<a href="#candidate-2">2</a>'
    assert rows[0]["UTC"] == "2026-03-04T05:06:20.651"
    assert (rows[0]["injected event"], rows[3]["injected event"]) == ("flare, ρ = 12.0", "none")
    assert rows[4]["veto"] == "sharp"
    assert 'id="candidate-1"' in full_run[1]


def test_loud_vetoed_triggers_stand_in_the_report_with_their_reasons(full_run):
    section = section_of(full_run[1], "vetoed")
    assert "42 triggers above 10 σ have a veto and are no candidates" in section
    assert "41 sharp: a track of a few pixels fits better than the light of a star" in section
    rows = cells_of(section)
    assert [(row["#"], row["S/N"], row["veto"], row["candidate"]) for row in rows] == [
        ('<a href="#vetoed-1">1</a>', "300.0", "sharp", "v0"),
        ('<a href="#vetoed-2">2</a>', "20.0", "edge", "v1"),
    ]


def test_any_candidate_is_pictured_on_request_also_a_vetoed_one(full_run):
    folder, html = full_run
    try:
        asked = write_report(folder, choice=Pictured(top=1, names=("c3", "v1"))).read_text(encoding="utf-8")
        with pytest.raises(ReportError, match=r"has no candidate 'c9'; candidates.parquet and vetoed.parquet list"):
            write_report(folder, choice=Pictured(names=("c9",)))
    finally:
        (folder / "report.html").write_text(html, encoding="utf-8")
    on_demand = ["3: c1 on demand", "4: c2 on demand", "5: c4 on demand"]
    assert cards_of(section_of(asked, "candidates")) == ["1: c0", "2: c3", *on_demand]
    assert cards_of(section_of(asked, "vetoed")) == ["2: v1", "1: v0 on demand"]
    assert '<a href="#vetoed-2">2</a>' in section_of(asked, "vetoed")


def test_strip_and_light_curve_lie_beside_the_page_and_show_the_event(full_run):
    folder, _ = full_run
    candidate = RunFolder(folder).listed.iloc[0]
    with fits.open(folder / "report" / "c0.fits") as hdus:
        strip, header = hdus[0].data, hdus[0].header
        assert hdus["NOISE"].data.shape == (16,)
    start, stop = window_rows(candidate, 300)
    assert strip.shape == (16, stop - start)
    assert (header["CANDID"], header["CRVAL1"], header["PEAKROW"]) == ("c0", start, candidate["row_peak"])
    assert header["SOURCE"] == FILE
    curve = Table.read(folder / "report" / "c0.ecsv")
    assert curve["time"].isot[curve["after_peak"] == 0] == [candidate["time_read_utc"]]
    peak = np.abs(curve["row"] - candidate["row_peak"]) <= 10
    light = np.sum(curve["light"][peak]) / np.sqrt(np.sum(curve["light_error"][peak] ** 2))
    assert light == pytest.approx(candidate["snr"], abs=4)  # of a box; the noise alone scatters by 1


def test_report_is_the_same_each_time(full_run):
    folder, html = full_run
    assert write_report(folder).read_text(encoding="utf-8") == html


def test_search_folder_is_reported_without_what_only_a_run_has(full_run, tmp_path):
    source, _ = full_run
    candidates = pd.read_parquet(source / "search" / "candidates.parquet")
    candidates.to_parquet(tmp_path / "candidates.parquet")
    (tmp_path / "store").symlink_to(source / "store" / "heldout")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert section_of(html, "candidates").count("<img ") == 4
    assert "injected event" not in section_of(html, "candidates").lower()  # no truth is known
    assert "Left out: no frames/ in this folder, and no frames where the store was made from." in section_of(
        html, "frame"
    )
    assert 'id="comparison"' not in html  # a search evaluates nothing
    assert "<img " in section_of(html, "streaks")


def test_search_without_candidates_says_so(full_run, tmp_path):
    candidates = pd.read_parquet(full_run[0] / "search" / "candidates.parquet")
    candidates.iloc[:0].to_parquet(tmp_path / "candidates.parquet")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "The search found no candidates." in section_of(html, "candidates")


def test_candidate_whose_store_is_gone_keeps_its_numbers(full_run, tmp_path):
    pd.read_parquet(full_run[0] / "search" / "candidates.parquet").to_parquet(tmp_path / "candidates.parquet")
    section = section_of(write_report(tmp_path).read_text(encoding="utf-8"), "candidates")
    assert "No picture: no entry of this amplifier in the store." in section
    assert "<dt>S/N</dt><dd>11.30</dd>" in section


def test_unreadable_frame_is_left_out_with_its_reason(tmp_path):
    path = tmp_path / "frames" / "a" / "broken.fits"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    (tmp_path / "settings.toml").write_text("")
    section = section_of(write_report(tmp_path).read_text(encoding="utf-8"), "frame")
    assert "Left out: the frame could not be read:" in section
    assert "is empty (0 bytes)" in section


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ReportError, match=f"{re.escape(str(tmp_path))} holds nothing to report: no settings.toml"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"no folder .*nowhere; give the folder named as --out"):
        write_report(tmp_path / "nowhere")


def test_light_curve_of_unit_noise_has_unit_noise_and_finds_the_pulse():
    rng = np.random.default_rng(5)
    signal = pixel_profile(np.arange(-8, 8), 0.85)
    noise = rng.normal(size=(16, 20_000))
    noise[3, :5000] = np.nan  # five pixels from the star, where it has no light
    residual = noise.copy()
    residual[:, 100] += 7 * signal / np.sqrt((signal**2).sum())
    curve = matched_light_curve(residual, signal)
    assert np.std(curve[200:]) == pytest.approx(1, abs=0.03)  # six times the error of 20,000 draws
    difference = curve - matched_light_curve(noise, signal)
    assert difference[100] == pytest.approx(7, abs=1e-6)
    assert np.count_nonzero(difference) == 1


def test_light_curve_solved_by_hand():
    residual = np.array([[3.0, np.nan, np.nan], [4.0, 5.0, np.nan]])
    curve = matched_light_curve(residual, np.array([3.0, 4.0]))
    np.testing.assert_allclose(curve, [5.0, 5.0, np.nan])  # (9 + 16) / 5, then 20 / 4, then nothing valid


def test_bins_keep_unit_noise():
    np.testing.assert_allclose(bin_time(np.array([1.0, 1.0, 1.0, 1.0, np.nan, 3.0, 9.0]), 2), [2**0.5, 2**0.5, 3.0])
    np.testing.assert_allclose(bin_time(np.full((1, 4), np.nan), 4), [[np.nan]])


def test_window_stays_within_the_file():
    assert window_rows(pd.Series({"row_start": 10, "row_stop": 12}), 5000) == (0, 109)
    assert window_rows(pd.Series({"row_start": 1000, "row_stop": 1099}), 1150) == (800, 1150)


def test_window_of_columns_stays_within_the_amplifier(full_run):
    run = RunFolder(full_run[0])
    amplifier = run.open_entry(full_run[0] / "store" / "heldout" / "night_c03_q2")
    candidate = run.candidates.iloc[0]
    for x, first in ((2.0, 0), (1000.4, 992), (3071.0, 3056)):
        strip, noise_e, found = cut_window(amplifier, candidate.copy().replace(candidate["x"], x), 10, 30)
        assert (strip.shape, noise_e.shape, found) == ((16, 20), (16,), first)
        np.testing.assert_array_equal(strip, amplifier.residual[0, first : first + 16, 10:30])


def test_every_member_stands_under_the_first_of_its_group():
    table = pd.DataFrame({"candidate_id": ["a", "b", "c", "d"], "group_id": ["g", None, "g", None]})
    listed = in_groups(table)
    assert listed["candidate_id"].tolist() == ["a", "c", "b", "d"]
    assert listed["leads"].tolist() == [True, False, True, True]
    assert listed["n_in_group"].tolist() == [2, 2, 1, 1]
    assert describe_group(table.iloc[0], table) == "2 candidates: this, c"
    assert describe_group(table.iloc[1], table) == "1 candidate"


def test_match_in_words():
    matches = pd.DataFrame({"candidate_id": ["a"], "event_id": [4], "kind": ["glint"], "rho": [8.04]})
    assert describe_match(pd.Series({"candidate_id": "a"}), matches) == "glint, event 4, ρ = 8.0"
    assert describe_match(pd.Series({"candidate_id": "b"}), matches) == "none"


def test_candidates_of_image_cubes_are_found_by_null_ccd_and_quadrant(tmp_path):
    store = tmp_path / "store"
    row = {"entry": "cube", "file": "k2.fits", "ccd": None, "quadrant": None, "row_rate_hz": 1.0, "live_pixel_rows": 1}
    write_manifest(store, [row, {**row, "entry": "other", "ccd": 1, "quadrant": 1}])
    candidate = pd.Series({"file": "k2.fits", "ccd": pd.NA, "quadrant": pd.NA})
    assert RunFolder(tmp_path).entry_of(candidate) == store / "cube"
    assert RunFolder(tmp_path).entry_of(replace_file(candidate, "else.fits")) is None


def test_candidates_without_probability_come_by_signal_to_noise_and_vetoed_ones_last(tmp_path):
    table = pd.DataFrame(
        {"candidate_id": list("abcd"), "probability": [np.nan, np.nan, 0.2, np.nan], "snr": [7.0, -9, 5, 50]}
    )
    table["veto"] = [None, "", np.nan, "sharp"]
    table["kind"] = [None, "flare", "flare", "flare"]
    table.to_parquet(tmp_path / "candidates.parquet")
    found = RunFolder(tmp_path).candidates
    assert found["candidate_id"].tolist() == ["c", "b", "a", "d"]
    assert found["veto"].tolist() == ["", "", "", "sharp"]
    assert found["kind"].tolist()[2] == "unclassified"


def replace_file(candidate, name):
    changed = candidate.copy()
    changed["file"] = name
    return changed


def search_night(folder, camera, pulse_rows, n_searched=2):
    """Search files of 2,000 rows with pulses in the first amplifier; both files and the folder of the search."""
    electrons = np.full((4000, 2 * N_COLUMNS), SKY_E)
    for row in pulse_rows:
        add_pulse(electrons, row, 30.2, 2.0, 25.0)
    (folder / "night").mkdir()
    files = write_sequence(folder / "night", expose(electrons, seed=21), 1000, 2)
    search_again(files[:n_searched], folder / "out", camera)
    return files, folder / "out"


def search_again(files, out, camera):
    search_files(
        files, reference="template-bank", out=out, settings=SearchSettings(), instrument=camera, resume=True,
        executor=SerialExecutor(),
    )  # fmt: skip


@pytest.fixture
def calibrated(monkeypatch):
    """File and quadrant of every amplifier that a report calibrates."""
    calls = []
    ingest = pictures.ingest_amplifier

    def recorded(path, quadrant, *arguments, **options):
        row = ingest(path, quadrant, *arguments, **options)
        calls.append((path.name, quadrant))
        return row

    monkeypatch.setattr(pictures, "ingest_amplifier", recorded)
    return calls


def test_report_of_a_search_calibrates_what_it_pictures_and_that_once(tiny_camera, tmp_path, calibrated):
    files, out = search_night(tmp_path, tiny_camera, (500, 900, 2700))
    assert not (out / "store").exists()
    html = write_report(out).read_text(encoding="utf-8")
    assert sorted(calibrated) == [(path.name, 1) for path in files]  # no candidate is in the second amplifier
    section = section_of(html, "candidates")
    assert section.count("<h3>") == section.count("<img ") == 3
    assert "No picture" not in section
    assert "<img " in section_of(html, "streaks")
    assert write_report(out).read_text(encoding="utf-8") == html
    assert len(calibrated) == 2


def test_report_of_a_search_that_went_on_pictures_what_is_new(tiny_camera, tmp_path, calibrated):
    files, out = search_night(tmp_path, tiny_camera, (500, 2700), n_searched=1)
    assert section_of(write_report(out).read_text(encoding="utf-8"), "candidates").count("<img ") == 1
    search_again(files, out, tiny_camera)
    assert section_of(write_report(out).read_text(encoding="utf-8"), "candidates").count("<img ") == 2
    assert calibrated == [(path.name, 1) for path in files]
    assert read_manifest(out / "store")["file"].tolist() == [path.name for path in files]


def test_frame_that_is_gone_leaves_its_card_without_a_picture(tiny_camera, tmp_path, calibrated):
    files, out = search_night(tmp_path, tiny_camera, (500, 2700))
    files[0].unlink()
    section = section_of(write_report(out).read_text(encoding="utf-8"), "candidates")
    assert calibrated == [(files[1].name, 1)]
    cards = section.split("<h3>")[1:]
    gone, there = sorted(cards, key=lambda card: files[1].name in card)
    assert "No picture: no entry of this amplifier in the store." in gone
    assert "<dt>S/N</dt>" in gone
    assert "<img " not in gone
    assert "<img " in there


@pytest.mark.parametrize("is_there", [True, False])
def test_report_of_a_search_without_candidates_shows_the_first_file_if_it_is_there(
    tiny_camera, tmp_path, calibrated, is_there
):
    files, out = search_night(tmp_path, tiny_camera, ())
    if not is_there:
        for path in files:
            path.unlink()
    html = write_report(out).read_text(encoding="utf-8")
    assert "The search found no candidates." in section_of(html, "candidates")
    assert calibrated == ([(files[0].name, 1)] if is_there else [])
    assert ("<img " in section_of(html, "streaks")) == is_there


def test_report_of_a_search_whose_frames_are_gone_tells_numbers(tiny_camera, tmp_path, calibrated):
    files, out = search_night(tmp_path, tiny_camera, (500,))
    for path in files:
        path.unlink()
    section = section_of(write_report(out).read_text(encoding="utf-8"), "candidates")
    assert calibrated == []
    assert "No picture: no entry of this amplifier" in section
    assert not (out / "store" / "manifest.parquet").exists()


def test_a_map_shows_the_candidates_that_have_a_position(tmp_path):
    """One on a star and one on a segment of 0.8 deg; their file is gone, so no amplifier is outlined."""
    row = dict.fromkeys(empty_candidates()) | {"file": "a.fits", "path": "a.fits", "quadrant": 1, "veto": ""}
    row |= {"row_start": 1, "row_stop": 5, "row_peak": 3, "x": 7.0, "duration_s": 0.1, "snr": 9.0, "time_read_utc": ""}
    places = {"ra": 150.0, "dec": 30.0}, dict.fromkeys(("segment_ra_1", "segment_ra_2"), 150.2)
    places[1].update(segment_dec_1=29.6, segment_dec_2=30.4)
    rows = [{**row, "candidate_id": name, "group_id": name, **place} for name, place in zip("ab", places, strict=True)]
    table = pd.DataFrame(rows).astype(empty_candidates().dtypes.to_dict())
    write_candidates(table, tmp_path, {})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "1 candidates at a point (circles), 1 on a segment (lines)" in section_of(html, "map")
    assert 'src="data:image/svg+xml' in section_of(html, "map")
    assert "<dd>150.200000 +29.600000 to 150.200000 +30.400000, 48.0′</dd>" in section_of(html, "candidates")
    write_candidates(table.assign(ra=None, segment_ra_1=None), tmp_path, {})
    assert '<section id="map">' not in write_report(tmp_path).read_text(encoding="utf-8")


LIST = """
const list = documents[0].querySelector("#candidates table");
const heading = (name) => [...list.querySelectorAll("th")].find((cell) => cell.textContent.startsWith(name));
const shown = () => [...list.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.lastChild.textContent);
const field = documents[0].querySelector("#candidates input");
const filter = (words) => { field.value = words; field.dispatchEvent(new Event("input")); return shown(); };
"""


def test_list_of_candidates_sorts_filters_and_links_in_a_browser(full_run, tmp_path):
    answer = ask_browser(
        full_run[1],
        LIST
        + """
        const sorted = ["S/N", "S/N", "S/N", "kind"].map((name) => { heading(name).click(); return shown(); });
        heading("kind").click();
        heading("kind").click();
        return {
          sorted,
          filtered: ["flare", "S/N > 8", "s/n<0", "flare S/N>8", "nothing", ""].map(filter),
          count: documents[0].querySelector("#candidates output").textContent,
          links: [...list.querySelectorAll("a")].map((link) => link.hash),
          cards: [...documents[0].querySelectorAll("#candidates .card")].map((card) => `#${card.id}`),
          hidden: [...documents[0].querySelectorAll("#candidates .card")].filter((card) => !card.offsetHeight)
            .map((card) => `#${card.id}`),
          asked: (() => {
            documents[0].location.hash = "#candidate-2";
            return documents[0].querySelector("#candidate-2").offsetHeight > 0;
          })(),
          fits: list.parentElement.scrollWidth <= list.parentElement.clientWidth,
        };
        """,
        tmp_path,
    )
    as_written = ["c0", "c3", "c1", "c2", "c4"]  # S/N 11.3, 6.2, −9.4, 8.1, 30.0
    assert answer["sorted"][0] == ["c4", "c0", "c2", "c3", "c1"]
    assert answer["sorted"][1] == ["c1", "c3", "c2", "c0", "c4"]
    assert answer["sorted"][2] == as_written
    assert answer["sorted"][3] == ["c2", "c4", "c0", "c3", "c1"]
    assert answer["filtered"] == [["c0", "c3"], ["c0", "c2", "c4"], ["c1"], ["c0"], [], as_written]
    assert answer["count"] == "5 of 5 rows"
    assert answer["links"] == sorted(answer["cards"]) == [f"#candidate-{number}" for number in (1, 2, 3, 4, 5)]
    assert answer["hidden"] == ["#candidate-2"]
    assert answer["asked"]
    assert answer["fits"]


def test_nothing_is_wider_than_the_window(full_run, tmp_path):
    assert find_overflow(full_run[1], tmp_path) == []
