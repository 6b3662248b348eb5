"""Detectors on held-out frames: events and alarms counted, files written, and the verdict."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.metrics import MIN_COUNTED_ALARMS, match_entries, optimum_threshold, poisson_interval
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR
from shutterless.pipeline.store.store import read_manifest, write_manifest
from shutterless.workflows.comparison.counted_events import ALARM_COLUMNS, EVENT_COLUMNS, hash_events, list_events
from shutterless.workflows.comparison.evaluate import (
    EVALUATE_EXPERIMENT,
    EvaluateError,
    _HeldOut,
    _judge,
    _open_truth,
    evaluate_detectors,
    measure_throughput,
    pixel_rows_per_hour,
)
from shutterless.workflows.comparison.models import group_controls, group_models, prepare_runs
from shutterless.workflows.comparison.verdict import choose_model, judge_evaluation
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.settings.settings import EvaluateSettings
from shutterless.workflows.tracking import tracking as tracking_module
from shutterless.workflows.tracking.tracking import fetch_runs, read_table

SETTINGS = EvaluateSettings(bootstrap=50, seed=1)
SUMMARY = {
    "detector", "family", "shuffled", "n_parameters", "train_seconds", "threshold", "false_alarms", "live_hours",
    "rate_per_hour", "rate_low", "rate_high", "extrapolated", "n_events", "completeness", "completeness_low",
    "completeness_high", "rho50", "rho50_low", "rho50_high", "loss_mag",
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(held_out, make_model, tmp_path_factory, tracking):
    """The bank, a model and its control with shuffled labels; weights of both are random."""
    store, truth = held_out
    own, control = make_model("cnn"), make_model("cnn-shuffled", seed=2)
    for folder in (own, control):
        known = {"family": "cnn", "shuffled": folder == control, "n_parameters": 321, "train_seconds": 4.0}
        (folder / "training.json").write_text(json.dumps(known))
    out = tmp_path_factory.mktemp("evaluation")
    evaluation = evaluate_detectors(
        store, references=["template-bank", str(own), str(control)], truth=truth, out=out, settings=SETTINGS,
        tracking=tracking,
    )  # fmt: skip
    return SimpleNamespace(tables=evaluation, out=out, own=own, control=control)


def test_summary_has_one_row_per_detector_with_what_its_training_left(evaluated):
    summary = evaluated.tables.summary
    assert set(summary.columns) == SUMMARY
    described = summary[["detector", "family", "shuffled", "n_parameters", "train_seconds"]].to_numpy().tolist()
    assert described == [
        ["template-bank", "template-bank", False, 0, 0.0],
        ["cnn", "cnn", False, 321, 4.0],
        ["cnn-shuffled", "cnn", True, 321, 4.0],
    ]
    assert summary["completeness"].between(summary["completeness_low"], summary["completeness_high"]).all()


def test_tables_are_written_as_they_are_returned(evaluated):
    for name in ("summary", "completeness", "apart", "reliability", "events", "groups", "losses"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(evaluated.out / f"{name}.parquet"), getattr(evaluated.tables, name), check_dtype=False
        )
    assert (evaluated.out / "verdict.txt").read_text() == evaluated.tables.verdict + "\n"
    lines = (evaluated.tables.verdict, "completeness", "template-bank", "template-bank: orphan burst ")
    for text in (*lines, "cnn: rho 7 and above: ", " no trigger, ", "shapes outside the bank"):
        assert text in evaluated.tables.text()


def test_false_alarms_are_counted_on_the_event_free_amplifiers_alone(evaluated, held_out):
    manifest = read_manifest(held_out[0])
    quiet = manifest[manifest["file"].str.startswith("calm")]
    assert len(quiet) == 2
    live_hours = (quiet["live_pixel_rows"] / (64 * 300.0 * 3600)).sum()
    np.testing.assert_allclose(evaluated.tables.summary["live_hours"], live_hours)
    detections = pd.read_parquet(evaluated.out / "detections.parquet")
    scores = detections.loc[detections["entry"].isin(quiet["entry"]), "cnn/score"]
    counted = json.loads((evaluated.own / "rates.json").read_text())["scores"]
    assert 0 < len(counted) <= len(scores)
    assert set(counted) <= set(scores)


def test_all_detectors_stand_at_the_same_rate_if_they_raise_enough_alarms(evaluated):
    summary = evaluated.tables.summary.set_index("detector")
    for name in ("cnn", "cnn-shuffled"):
        assert summary.loc[name, "false_alarms"] == MIN_COUNTED_ALARMS
        low, high = poisson_interval(MIN_COUNTED_ALARMS)
        hours = summary.loc[name, "live_hours"]
        assert summary.loc[name, "rate_low"] == pytest.approx(low / hours)
        assert summary.loc[name, "rate_high"] == pytest.approx(high / hours)
    written = json.loads((evaluated.out / "eta.json").read_text())
    assert written["rate_per_hour"] == pytest.approx(MIN_COUNTED_ALARMS / summary["live_hours"].iloc[0])


def test_completeness_is_the_share_of_injected_events_above_the_threshold(evaluated, held_out):
    """Counted again from the tables that were written."""
    truth = pd.read_parquet(held_out[1])
    manifest = read_manifest(held_out[0])
    events = truth[truth["is_event"] & (truth["kind"] != "glint")]
    events = events.astype({"ccd": "Int64", "quadrant": "Int64"}).merge(manifest[["file", "ccd", "quadrant", "entry"]])
    detections = pd.read_parquet(evaluated.out / "detections.parquet")
    for row in evaluated.tables.summary.itertuples():
        score = detections[f"{row.detector}/score"]
        above = detections[(score >= row.threshold) & np.isfinite(score)]  # a vetoed trigger finds no event
        found = set(match_entries(above, events)) - {-1}
        assert row.n_events == len(events)
        assert row.completeness == pytest.approx(len(found) / len(events))
    assert evaluated.tables.summary["completeness"].gt(0).any()


def test_bank_finds_most_of_the_bright_events(evaluated):
    bins = evaluated.tables.completeness.query("detector == 'template-bank' and kind == 'all' and rho_low >= 10")
    assert bins["n"].sum() >= 5
    assert bins["found"].sum() / bins["n"].sum() > 0.6


def test_false_alarm_curve_lies_beside_a_users_own_weights_and_that_of_the_bank_in_the_output(evaluated):
    summary = evaluated.tables.summary.set_index("detector")
    folders = {"cnn": evaluated.own, "cnn-shuffled": evaluated.control}
    folders["template-bank"] = evaluated.out / "template-bank"
    for name, folder in folders.items():
        curve = json.loads((folder / "rates.json").read_text())
        assert curve["live_hours"] == pytest.approx(summary.loc[name, "live_hours"])
        assert (
            sum(score >= summary.loc[name, "threshold"] for score in curve["scores"])
            == summary.loc[name, "false_alarms"]
        )
    assert not (evaluated.out / "cnn").exists()


def test_nothing_is_written_into_the_installed_weights(held_out, make_model, monkeypatch, tmp_path):
    installed = make_model("weights/transformer").parent
    monkeypatch.setattr(tracking_module, "bundled_folder", lambda: installed)
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*")}
    store, truth = held_out
    evaluate_detectors(store, references=["bundled-transformer"], truth=truth, out=tmp_path, settings=SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*")} == before
    assert (tmp_path / "bundled-transformer" / "rates.json").is_file()


def test_evaluation_is_the_same_again(evaluated, held_out, tmp_path):
    store, truth = held_out
    again = evaluate_detectors(
        store, references=[str(evaluated.own), "template-bank"], truth=truth, out=tmp_path, settings=SETTINGS
    ).summary.set_index("detector")
    first = evaluated.tables.summary.set_index("detector").loc[again.index]
    pd.testing.assert_frame_equal(again, first, check_exact=True)


def test_every_detector_has_a_tracked_run(evaluated, tracking):
    runs = fetch_runs(tracking, "evaluate").set_index("name")
    for row in evaluated.tables.summary.itertuples():
        assert runs.loc[row.detector, "metrics.completeness"] == row.completeness
    assert runs["params.data.seed"].eq("1").all()


def test_every_event_has_a_row_of_every_detector_by_which_they_are_paired(evaluated, held_out):
    events = pd.read_parquet(evaluated.out / "events.parquet")
    assert list(events.columns) == list(EVENT_COLUMNS)
    summary = evaluated.tables.summary.set_index("detector")
    assert events.groupby("detector")["found"].mean().to_dict() == pytest.approx(summary["completeness"].to_dict())
    keys = [tuple(part[["entry", "event_id"]].itertuples(index=False)) for _, part in events.groupby("detector")]
    assert len(set(keys)) == 1
    assert len(set(keys[0])) == len(keys[0]) == summary["n_events"].iloc[0]
    assert set(events["sequence"]) == {"busy"}
    found, score = events["found"], events["score"]
    assert (found <= (score >= events["detector"].map(summary["threshold"]))).all()


def test_tracked_detectors_log_what_comparisons_need(evaluated, tracking):
    runs = fetch_runs(tracking, "evaluate").set_index("name")
    assert set(runs["tags.evaluation.data_hash"]) == {evaluated.tables.data_hash}
    assert runs["tags.shuffled"].to_dict() == {"template-bank": "false", "cnn": "false", "cnn-shuffled": "true"}
    assert (runs["metrics.eta"] == evaluated.tables.eta).all()
    assert runs.loc["template-bank", "params.arch.n_parameters"] == "0"
    assert runs.loc["cnn", "metrics.strips_per_second"] > 0
    own = read_table(tracking, runs.loc["cnn", "run_id"], "events")
    expected = evaluated.tables.events.query("detector == 'cnn'")
    assert own["event_id"].tolist() == expected["event_id"].tolist()
    assert own["found"].tolist() == expected["found"].tolist()


def test_hash_of_the_data_is_that_of_store_and_events_whatever_is_judged(evaluated, held_out):
    manifest, events = read_manifest(held_out[0]), evaluated.tables.events
    bank = events[events["detector"] == "template-bank"]
    assert hash_events(manifest, events) == hash_events(manifest, bank.sample(frac=1, random_state=1))
    assert hash_events(manifest, bank) != hash_events(manifest, bank.iloc[1:])
    assert hash_events(manifest, bank) != hash_events(manifest.iloc[1:], bank)


def test_events_without_an_identifier_are_numbered():
    events = pd.DataFrame({"entry": ["a", "a"], "file": "f", "kind": "flare", "rho": [5.0, 6.0], "score": [1.0, 2.0]})
    manifest = pd.DataFrame({"entry": ["a"], "sequence": ["s"], "row_rate_hz": 300.0})
    listed = list_events({"d": events}, {"d": np.array([True, False])}, manifest)
    assert listed[["event_id", "sequence", "found"]].to_numpy().tolist() == [["0", "s", True], ["1", "s", False]]


def test_events_and_alarms_say_how_long_and_how_bright_they_are(evaluated, held_out):
    truth = pd.read_parquet(held_out[1]).set_index("event_id")
    events = evaluated.tables.events
    assert len(events) > 0
    for event in events.itertuples():
        own = truth.loc[event.event_id]
        assert (event.duration_s, event.sign) == (own["duration_s"], own["sign"])
        assert event.flux_e_s == pytest.approx(own["amplitude_e"] * 300.0)
    alarms = pd.read_parquet(evaluated.out / "alarms.parquet")
    assert list(alarms.columns) == list(ALARM_COLUMNS)
    for own in evaluated.tables.summary.itertuples():
        counted = alarms[(alarms["detector"] == own.detector) & (alarms["score"] >= own.threshold)]
        assert len(counted) == own.false_alarms
    best = pd.read_parquet(evaluated.out / "detections.parquet").set_index("cnn/score")
    loudest = alarms[alarms["detector"] == "cnn"].iloc[0]
    one = best.loc[loudest["score"]]
    n_rows = one["row_stop"] - one["row_start"] + 1
    assert loudest[["duration_s", "sign", "flux_e_s"]].tolist() == pytest.approx(
        [n_rows / 300.0, np.sign(one["snr"]), one["amplitude_e"] * 300.0]
    )


def hand_made():
    """Twelve false alarms of scores 1 to 12 in two hours, and four events at ρ = 6, 8, 12, 14 with a glint beside."""
    rows = [("calm", 10.0, 100 * i, float(i)) for i in range(1, 13)]
    rows += [("busy", 20.0, 1000, 10.0), ("busy", 20.0, 2000, 3.0), ("busy", 20.0, 3000, 2.9)]
    rows += [("busy", 40.0, 5000, 99.0), ("busy", 50.0, 6000, 98.0), ("busy", 60.0, 7000, 97.0)]
    detections = pd.DataFrame(rows, columns=["entry", "x", "row_start", "d/score"])
    detections = detections.assign(row_stop=detections["row_start"] + 3, width_rows=4.0)
    truth = pd.DataFrame(
        [
            ("busy", 20.0, 1000, "flare", True, 14.0),
            ("busy", 20.0, 2000, "burst", True, 12.0),
            ("busy", 20.0, 3000, "burst", True, 8.0),
            ("busy", 20.0, 4000, "flare", True, 6.0),  # nothing was detected there
            ("busy", 50.0, 6000, "glint", True, 50.0),
            ("busy", 60.0, 7000, "cosmic_ray", False, 50.0),
        ],
        columns=["entry", "x", "row_start", "kind", "is_event", "rho"],
    )
    return detections, truth.assign(row_stop=truth["row_start"] + 3)


def test_judgement_of_a_table_made_by_hand():
    detections, truth = hand_made()
    result = _judge(Detector("d", None), detections, _HeldOut(truth, frozenset({"calm"}), 2.0), SETTINGS)
    # ten of twelve alarms are allowed, so the threshold is the third lowest score; the detection at x = 40 of the
    # amplifier with events matches nothing and counts nowhere, the glint and the cosmic ray count nowhere either
    assert result.curve.scores.tolist() == [float(i) for i in range(12, 0, -1)]
    assert result.summary["threshold"] == 3.0
    assert result.summary["false_alarms"] == 10
    assert result.summary["rate_per_hour"] == 5.0
    # Garwood 1936: ten counts have a 95 % interval of 4.80 to 18.39
    assert result.summary["rate_low"] == pytest.approx(2.40, abs=0.005)
    assert result.summary["rate_high"] == pytest.approx(9.20, abs=0.005)
    assert not result.summary["extrapolated"]
    assert result.summary["n_events"] == 4
    assert result.summary["completeness"] == 0.5
    assert result.found.tolist() == [True, True, False, False]
    bins = result.completeness.query("kind == 'all'").set_index("rho_low")
    assert bins["completeness"].to_dict() == {6.0: 0.0, 8.0: 0.0, 12.0: 1.0, 14.0: 1.0}
    assert result.reliability is None


def test_lost_events_of_a_table_made_by_hand():
    """At 3 the flare at ρ = 14 and the burst at 12 are found; the burst at 8 has 2.9, the flare at 6 no trigger."""
    detections, truth = hand_made()
    result = _judge(Detector("d", None), detections, _HeldOut(truth, frozenset({"calm"}), 2.0), SETTINGS)
    assert result.losses.to_numpy().tolist() == [["below 7", 1, 0, 1, 0, 0, "d"], ["7 and above", 3, 2, 0, 0, 1, "d"]]
    groups = result.groups.set_index("group")
    assert groups.loc[["all", "kind flare", "kind burst"], ["n", "found"]].to_numpy().tolist() == [
        [4, 2],
        [2, 1],
        [2, 1],
    ]
    vetoed = detections.assign(**{"d/score": -np.inf})
    gated = _judge(Detector("d", None), vetoed, _HeldOut(truth, frozenset({"calm"}), 2.0), SETTINGS).losses
    assert gated["gated"].tolist() == [0, 3]


def test_stars_beside_the_truth_tell_which_events_are_blended():
    """Two stars of equal magnitude 4 px apart; the event of the first one's amplifier alone is blended."""
    manifest = pd.DataFrame(
        {"entry": ["a", "b"], "file": "f", "ccd": 1, "quadrant": [1, 2], "n_rows": 100, "live_pixel_rows": 10}
    ).assign(pixel_rows_per_hour=10.0)
    truth = pd.DataFrame({"file": "f", "ccd": 1, "quadrant": [1, 2], "kind": "flare", "is_event": True, "star_id": 0})
    truth = truth.assign(star_mag=12.0)
    stars = pd.DataFrame({"file": "f", "ccd": 1, "quadrant": [1, 1, 2], "star_id": [0, 1, 0], "x": [5.0, 9.0, 5.0]})
    placed = _open_truth(truth, manifest, stars.assign(mag=12.0)).truth
    assert placed["blended"].tolist() == [True, False]
    assert "blended" not in _open_truth(truth, manifest).truth


def test_the_optimum_of_a_narrow_camera_has_as_many_trials():
    """Five false alarms an hour of a tenth of the pixel-rows are fifty of ZTF."""
    narrow = _HeldOut(pd.DataFrame(), frozenset(), 2.0, PIXEL_ROWS_PER_HOUR / 10)
    assert narrow.rate_per_hour == 5.0
    assert narrow.eta == pytest.approx(optimum_threshold(50.0))
    detections, truth = hand_made()
    held_out = _HeldOut(truth, frozenset({"calm"}), 2.0, 1e8)
    assert _judge(Detector("d", None), detections, held_out, SETTINGS).curve.pixel_rows_per_hour == 1e8


def test_an_hour_of_several_cameras_is_the_mean_of_theirs():
    """200 pixel-rows of one that reads 100 an hour and 200 of one that reads 400 are 400 in 2.5 hours."""
    manifest = pd.DataFrame({"live_pixel_rows": [200, 200], "pixel_rows_per_hour": [100.0, 400.0]})
    assert pixel_rows_per_hour(manifest) == 160
    assert pixel_rows_per_hour(manifest[:1]) == 100


def test_endless_events_are_judged_apart():
    """A pulsar where the glint was: found at the threshold of 3, and no part of the completeness."""
    detections, truth = hand_made()
    truth.loc[truth["kind"] == "glint", "kind"] = "pulsar"
    result = _judge(Detector("d", None), detections, _HeldOut(truth, frozenset({"calm"}), 2.0), SETTINGS)
    assert (result.summary["n_events"], result.summary["completeness"]) == (4, 0.5)
    assert result.apart[["kind", "n", "found", "detector"]].to_numpy().tolist() == [["pulsar", 1, 1, "d"]]


def test_detector_that_raises_few_alarms_keeps_everything_and_is_marked():
    detections, truth = hand_made()
    few = detections[(detections["entry"] == "busy") | (detections["d/score"] > 9)]
    result = _judge(Detector("d", None), few, _HeldOut(truth, frozenset({"calm"}), 2.0), SETTINGS)
    assert (result.summary["threshold"], result.summary["false_alarms"]) == (10.0, 3)
    assert result.summary["rate_per_hour"] == 1.5
    assert result.summary["extrapolated"]


def test_vetoed_detections_raise_no_alarm_and_find_nothing():
    detections, truth = hand_made()
    vetoed = detections.assign(**{"d/score": -np.inf})
    result = _judge(Detector("d", None), vetoed, _HeldOut(truth, frozenset({"calm"}), 2.0), SETTINGS)
    assert result.summary["false_alarms"] == 0
    assert result.summary["completeness"] == 0.0


def verdict(found, shuffled=None):
    """Verdict over detectors that found these events, each in a sequence of its own."""
    shuffled = shuffled or {}
    rows, tables = [], []
    for name, hits in {**found, **shuffled}.items():
        share = float(np.mean(hits))
        rows.append(
            {
                "detector": name, "family": name.removesuffix("-shuffled"), "shuffled": name in shuffled,
                "rate_per_hour": 50.0, "rate_low": 24.0, "rate_high": 92.0, "live_hours": 0.2, "n_events": len(hits),
                "n_parameters": len(name), "completeness": share, "completeness_low": share - 0.1,
                "completeness_high": share + 0.1,
            }
        )  # fmt: skip
        event = [str(i) for i in range(len(hits))]
        tables.append(pd.DataFrame({"detector": name, "event_id": event, "entry": event, "sequence": event,
                                    "found": np.asarray(hits, bool)}))  # fmt: skip
    return judge_evaluation(pd.DataFrame(rows), pd.concat(tables)).splitlines()


def test_verdict_names_the_best_with_its_rate_and_interval():
    first, second, *_ = verdict({"best": [1] * 9 + [0], "worse": [1] + [0] * 9})
    assert first == (
        "At 50 false alarms per amplifier-hour (95 % Poisson interval 24 to 92, 0.20 amplifier-hours), 10 events. Best "
        "of 2 by completeness: best, 4 parameters, 90.0 %. Its 95 % interval is 80.0 to 100.0 %."
    )
    assert second.startswith("Take best: none has fewer parameters. The next, worse, is behind by 80.0 ± 13.")
    assert second.endswith("(paired bootstrap over 10 sequences, the same 10 events).")


def test_verdict_takes_the_simpler_of_what_it_cannot_tell_apart():
    """Each found half of the events, and as many of those that the other missed."""
    lines = verdict({"larger": [1, 0] * 6, "small": [0, 1] * 6})
    assert lines[1].startswith("Take small (5 parameters): it is behind by 0.0 ±")


def test_evaluate_and_compare_say_the_same_of_the_same_detectors(evaluated, tracking):
    """The report shows the text of the evaluation, so all three agree."""
    runs = prepare_runs(fetch_runs(tracking, EVALUATE_EXPERIMENT))
    models = group_models(runs, "completeness", evaluated.tables.data_hash)
    compared = choose_model(models, group_controls(runs), "completeness", tracking)
    assert compared.lines[1] in evaluated.tables.verdict.splitlines()
    assert compared.lines[0] in evaluated.tables.verdict


def test_what_was_trained_with_shuffled_labels_is_not_ranked():
    """However many events it finds: that is chance."""
    said = verdict({"cnn": [1, 1, 0, 0]}, {"cnn-shuffled": [1, 1, 1, 1]})
    assert "Best of 1 by completeness: cnn, 3 parameters, 50.0 %" in said[0]
    assert verdict({}, {"cnn-shuffled": [1, 1, 1, 1]}) == [
        "Trained with shuffled labels: what these detectors find is chance, and none is ranked."
    ]


def refuse(held_out, tmp_path, references=("template-bank",), truth=None, store=None):
    path = held_out[1]
    if truth is not None:
        path = tmp_path / "truth.parquet"
        write_parquet(truth, path)
    evaluate_detectors(store or held_out[0], references=references, truth=path, out=tmp_path / "out", settings=SETTINGS)


def test_truth_without_events_is_refused(held_out, tmp_path):
    truth = pd.read_parquet(held_out[1])
    with pytest.raises(EvaluateError, match=r"holds no event, so completeness cannot be measured; add frames with ev"):
        refuse(held_out, tmp_path, truth=truth[~truth["is_event"]])


def test_truth_of_uncounted_events_alone_is_refused(held_out, tmp_path):
    truth = pd.read_parquet(held_out[1])
    with pytest.raises(EvaluateError, match=r"all events .* without a finite optimum or not counted \('glint', 'ecli"):
        refuse(held_out, tmp_path, truth=truth.assign(kind=np.where(truth["is_event"], "pulsar", truth["kind"])))


def test_truth_of_other_files_is_refused_with_both(held_out, tmp_path):
    truth = pd.read_parquet(held_out[1]).assign(file="elsewhere.fits")
    with pytest.raises(EvaluateError, match=r"names files \['elsewhere\.fits'\], the store holds \['busy_c04_000\.fit"):
        refuse(held_out, tmp_path, truth=truth)


def test_two_detectors_of_one_name_are_refused(held_out, make_model, tmp_path):
    both = [str(make_model("same")), str(make_model("same"))]
    with pytest.raises(EvaluateError, match=r"must differ in name, got \['same', 'same'\]; rename a model folder"):
        refuse(held_out, tmp_path, references=both)


def test_amplifier_that_cannot_be_opened_is_named(held_out, tmp_path):
    write_manifest(tmp_path, read_manifest(held_out[0]).to_dict("records"))
    with pytest.raises(EvaluateError, match=r"amplifier busy_c04_000_c04_q1 of .* could not be searched: StoreError"):
        refuse(held_out, tmp_path, store=tmp_path)


def test_throughput_is_a_number_of_strips_in_a_second(held_out, make_model):
    store, _ = held_out
    entry = read_manifest(store)["entry"].iloc[0]
    assert 10 < measure_throughput(str(make_model("mlp", "mlp")), store, entry, n_strips=64) < 1e8
