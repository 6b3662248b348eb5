"""Tables of detectors on simulated fields: a few events whose answers are solved in the head."""

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.metrics import RateCurve, optimum_threshold
from shutterless.workflows.comparison.field_tables import (
    count_asked,
    judge_fields,
    mark_slow_satellites,
    open_fields,
    posterior_table,
    ramp_alarms,
    to_markdown,
)

DETECTORS = ("template-bank", "net")


def made_fields(n_alarms=20, hours=1.0):
    """A field without events and one of two amplifiers with three events each; the net finds one more than the bank."""
    manifest = pd.DataFrame(
        {
            "entry": ["e0", "e1", "e2"], "file": ["f0", "f1", "f1"], "ccd": [1, 2, 2], "quadrant": [1, 1, 2],
            "n_rows": 3000, "live_pixel_rows": hours * 100.0, "pixel_rows_per_hour": 100.0,
            "sequence": ["s0", "s1", "s1"],
        }
    )  # fmt: skip
    rows = [("e0", 10.0, 100 * i, float(i), float(i), None) for i in range(1, n_alarms + 1)]
    for entry in ("e1", "e2"):
        rows += [(entry, 100.0, 500, 30.0, 30.0, "flare"), (entry, 200.0, 500, 2.0, 19.0, "flare")]
    triggers = pd.DataFrame(rows, columns=["entry", "x", "row_start", *(f"{n}/score" for n in DETECTORS), "net/kind"])
    triggers = triggers.assign(row_stop=triggers["row_start"] + 3, width_rows=4.0, **{"template-bank/kind": None})
    truth = pd.DataFrame(
        [(quadrant, 100.0 * (i + 1), rho) for quadrant in (1, 2) for i, rho in enumerate((7.0, 8.0, 12.0))],
        columns=["quadrant", "x", "rho"],
    )
    truth = truth.assign(
        file="f1", ccd=2, kind=["flare", "burst", "burst"] * 2, is_event=True, row_start=500, row_stop=503,
        duration_s=0.01, star_id=0, star_mag=11.0,
    )  # fmt: skip
    stars = pd.DataFrame(
        {"file": "f1", "ccd": 2, "quadrant": [1, 1, 2], "star_id": [0, 1, 0], "x": [100.0, 103.0, 100.0]}
    )
    return triggers, truth, stars.assign(mag=11.0), manifest


def judged(**keys):
    return judge_fields(*made_fields(**keys), DETECTORS, rates=(10.0,), n_samples=20)


def test_rates_in_the_head():
    """Ten of twenty alarms: the threshold is 11. Of six events the bank finds two, the net four."""
    rates = judged().rates.set_index("detector")
    assert rates["threshold"].tolist() == [11.0, 11.0, optimum_threshold(10.0)]
    assert rates["completeness"].tolist()[:2] == pytest.approx([1 / 3, 2 / 3])
    assert rates.loc["net", ["more", "more_low", "more_high"]].tolist() == pytest.approx([1 / 3] * 3)
    assert rates["n_events"].tolist() == [6, 6, 6]


def test_kinds_of_events_between_seven_and_nine():
    """The net says flare to all four; two of them are flares. The bank gives no kinds."""
    rates = judged().rates.set_index("detector")
    assert (rates.loc["net", "right_kinds"], rates.loc["net", "n_kinds"]) == (0.5, 4)
    assert np.isnan(rates.loc["template-bank", "right_kinds"])


def test_losses_and_groups_of_every_detector():
    tables = judged()
    losses = tables.losses.set_index(["detector", "rho"])
    assert losses.loc[("template-bank", "7 and above"), "n":].tolist() == [6, 2, 2, 0, 2]
    assert losses.loc[("net", "7 and above"), "n":].tolist() == [6, 4, 2, 0, 0]
    groups = tables.groups.set_index(["detector", "group"])
    assert groups.loc[("net", "on blended stars"), ["n", "found"]].tolist() == [3, 2]  # the first amplifier's star
    assert groups.loc[("net", "on stars brighter than 12"), ["n", "found"]].tolist() == [6, 4]


def test_only_events_of_the_range_count():
    narrow = judge_fields(*made_fields(), DETECTORS, rates=(10.0,), rho=(7.5, 9.0), n_samples=5).rates
    assert narrow["n_events"].tolist() == [2, 2, 2]


def test_truth_of_files_that_are_not_in_the_store_is_left_out():
    triggers, truth, stars, manifest = made_fields()
    fields = open_fields(triggers, truth, stars, manifest[manifest["entry"] != "e2"])
    assert (len(fields.truth), set(fields.detections["entry"])) == (3, {"e0", "e1"})


def test_a_slow_satellite_is_in_the_rows_for_five_seconds():
    manifest = made_fields()[3]
    lights = pd.DataFrame({"file": ["f0", "f1", "f1"], "ccd": [1, 2, 2], "quadrant": [1, 1, 2]})
    lights = lights.assign(kind=["satellite", "satellite", "aircraft"], duration_s=[5.0, 4.9, 30.0])
    assert mark_slow_satellites(lights, manifest).tolist() == ["e0"]


def test_ramp_is_compared_with_as_many_steady_rows():
    """At 11 steady rows give ten alarms an hour, which is one in 0.1 h; the ramp has those of scores 11 and 12."""
    table = ramp_alarms(judged(), judged(n_alarms=12, hours=0.1))
    assert table["ramp_alarms"].tolist() == [2, 2]
    assert table["steady_alarms"].tolist() == pytest.approx([1.0, 1.0])
    assert table["times"].tolist() == pytest.approx([2.0, 2.0])


def test_text_has_every_detector_and_a_dash_for_what_is_not_there():
    text = judged().text()
    assert "| template-bank | 10 | 11 | 10 | 33.3 % (33.3 to 33.3) |" in text
    assert "| net | 7 and above | 6 | 4 | 2 | 0 | 0 |" in text
    assert "Where events went" not in judged().text(short=True)
    assert to_markdown(pd.DataFrame({"a": [0.5], "b": [None]})) == "| a | b |\n| --- | --- |\n| 0.5 | – |"


def test_detectors_are_compared_in_groups_with_the_one_that_was_named(tmp_path):
    tables = judge_fields(*made_fields(), DETECTORS, rates=(10.0,), n_samples=20, against="template-bank")
    own = tables.differences.set_index("group")
    assert own["detector"].eq("net").all()
    assert own.loc["all", ["n", "more"]].tolist() == pytest.approx([6, 1 / 3])
    assert own.loc["all", "error"] == pytest.approx(np.sqrt(2 / 9 / 6), abs=0.06)  # of one field its events are drawn
    assert "More than template-bank finds at 10, in points, with one standard error:" in tables.text()
    assert "| all | 6 | +33.3 ± " in tables.text()
    tables.write(tmp_path)
    assert len(pd.read_parquet(tmp_path / "differences.parquet")) == len(own)
    assert judged().differences.empty


def test_tables_are_written(tmp_path):
    tables = judged()
    tables.write(tmp_path)
    for name in ("rates", "groups", "losses", "alarms"):
        written = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(written, getattr(tables, name), check_dtype=False)


def test_the_rate_that_is_asked_is_counted():
    """Two fields of four amplifiers, 0.1 hours each, whose noise falls by e in 0.5; 40 alarms are asked for."""
    rng = np.random.default_rng(3)
    entries = [f"a{k}" for k in range(8)]
    manifest = pd.DataFrame(
        {"entry": entries, "sequence": ["one"] * 4 + ["two"] * 4, "live_pixel_rows": 1e8, "pixel_rows_per_hour": 1e9}
    )
    n = 300
    rows = 1000 * np.arange(n)
    place = {"x": 10.0, "y": 0.0, "row_start": rows, "row_stop": rows + 5, "width_rows": 6.0, "m/probability": np.nan}
    noise = [pd.DataFrame({"entry": entry, **place, "m/score": rng.exponential(0.5, n)}) for entry in entries]
    curve = RateCurve(np.linspace(9, 5, 100), live_hours=1.0)
    (row,) = count_asked(pd.concat(noise), manifest, {"m": curve}, [50.0]).itertuples()
    assert row.asked == pytest.approx(40)
    assert row.counted == pytest.approx(40, abs=15)
    assert row.stored_counted == 0  # that curve is of other frames
    assert row.asked_of_a_field == pytest.approx(20)
    assert row.most_in_a_field <= row.counted


def test_events_among_the_triggers_are_no_false_alarms():
    """One amplifier with ten noise triggers above the threshold, four of which belong to two events."""
    manifest = pd.DataFrame(
        {"entry": ["a"], "sequence": ["s"], "file": ["f"], "ccd": [1], "quadrant": [2], "live_pixel_rows": [2e8],
         "pixel_rows_per_hour": [1e9]}
    )  # fmt: skip
    n = 400
    rows = 1000 * np.arange(n)
    score = np.where(np.arange(n) < 10, 50.0, np.random.default_rng(4).exponential(0.5, n))
    triggers = pd.DataFrame(
        {"entry": "a", "x": 10.0, "y": 0.0, "row_start": rows, "row_stop": rows + 5, "width_rows": 6.0}
    ).assign(**{"m/probability": np.nan, "m/score": score})
    truth = pd.DataFrame(
        {"file": "f", "ccd": 1, "quadrant": 2, "is_event": [True, True, False], "x": 10.0, "row_start": [0, 2000, 5000],
         "row_stop": [1003, 3003, 5003], "rho": 9.0}
    )  # fmt: skip
    curve = RateCurve(np.linspace(50, 30, 100), live_hours=1.0)
    (everything,) = count_asked(triggers, manifest, {"m": curve}, [50.0]).itertuples()
    (noise,) = count_asked(triggers, manifest, {"m": curve}, [50.0], truth).itertuples()
    assert everything.stored_counted - noise.stored_counted == 4
    assert everything.counted - noise.counted == 4


def test_posteriors_say_how_many_candidates_are_events():
    """Ten hours with 40,000 false triggers and 400 events, 1,000 rows apart."""
    rng, n_noise, n_events = np.random.default_rng(5), 40_000, 400
    manifest = pd.DataFrame(
        {"entry": ["a"], "sequence": ["s"], "file": ["f"], "ccd": [1], "quadrant": [2], "live_pixel_rows": [1e10],
         "pixel_rows_per_hour": [1e9]}
    )  # fmt: skip
    rows = 1000 * np.arange(n_noise + n_events)
    score = np.concatenate([rng.exponential(0.5, n_noise), rng.normal(4.0, 1.0, n_events)])
    triggers = pd.DataFrame(
        {"entry": "a", "x": 10.0, "y": 0.0, "row_start": rows, "row_stop": rows + 5, "width_rows": 6.0}
    ).assign(**{"m/probability": np.nan, "m/score": score})
    truth = pd.DataFrame(
        {"file": "f", "ccd": 1, "quadrant": 2, "is_event": True, "x": 10.0, "row_start": rows[n_noise:],
         "row_stop": rows[n_noise:] + 5, "rho": 9.0}
    )  # fmt: skip
    curve = RateCurve(np.linspace(9, 5, 100), 1.0, event_scores=rng.normal(4.0, 1.0, 2000))
    table = posterior_table(triggers, truth, manifest, {"m": curve, "none": None}, 50.0)
    assert set(table["detector"]) == {"m"}
    whole = table.iloc[-1]
    assert whole["candidates"] == table["candidates"].iloc[:-1].sum() > 500
    assert whole["said"] == pytest.approx(whole["events"], rel=0.1)
