"""The gates: each by numbers that can be checked by hand, and all of them on simulated frames in the true format."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.metrics import RateCurve, cluster_detections
from shutterless.pipeline.settings import SettingsError, plain_values
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.comparison.evaluate import pixel_rows_per_hour
from shutterless.workflows.registry import gates
from shutterless.workflows.registry.gates import Gate, Judgement, judge_challenger
from shutterless.workflows.registry.history import GATE_LENGTH
from shutterless.workflows.registry.policy import Policy, ValidationSection, load_policy, make_policy, open_frozen
from shutterless.workflows.registry.store import RegistryError
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking.tracking import bundled_folder

ROOT = Path(__file__).resolve().parents[3]
POLICY = load_policy()
# limits that 0.02 amplifier-hours of a small camera can show
LENIENT = make_policy(
    {
        "floors": {"completeness": 0.0, "live_hours": 0.001, "strips_per_second": 1.0},
        "ceilings": {"false_alarms_per_hour": 1e6, "calibration_error": 1.0},
        "threshold": {"false_alarms_per_hour": 1000.0},
        "champion": {"largest_standard_error": 1.0},
    },
    "lenient",
)


def test_there_is_one_policy_file_and_it_alone_gives_every_gate_a_value():
    files = [path for path in ROOT.rglob("registry.toml") if not {"build", ".venv"} & set(path.parts)]
    assert [path.relative_to(ROOT).as_posix() for path in files] == ["workflows/settings/configs/registry.toml"]
    packaged = tomllib.loads(files[0].read_text(encoding="utf-8"))
    assert packaged.pop("validation") == {}
    assert packaged == {name: values for name, values in plain_values(POLICY).items() if name != "validation"}
    gates = [section for name, section in get_type_hints(Policy).items() if name != "validation"]
    assert [field.name for section in gates for field in fields(section) if field.default is not MISSING] == []


def test_a_policy_need_hold_only_what_it_changes_and_its_paths_are_beside_it(tmp_path):
    path = tmp_path / "strict.toml"
    path.write_text(
        '[floors]\ncompleteness = 0.8\n[validation]\nstore = "frozen/store"\ntruth = "/data/truth.parquet"\n'
    )
    policy = load_policy(path)
    assert (policy.floors.completeness, policy.floors.live_hours) == (0.8, POLICY.floors.live_hours)
    assert policy.validation.store == tmp_path / "frozen" / "store"
    assert policy.validation.truth == Path("/data/truth.parquet")


def test_a_misspelt_gate_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("[floors]\ncompletenes = 0.8\n")
    with pytest.raises(
        SettingsError, match=r"policy\.toml: \[floors\] completenes: unknown key; did you mean 'complete"
    ):
        load_policy(path)


def test_frames_are_frozen_by_hash(held_out, training_store, tmp_path):
    store, truth = held_out
    frozen = open_frozen(POLICY, store, truth, {})
    found = hashlib.sha256(truth.read_bytes()).hexdigest()
    assert frozen.hashes == {"manifest_hash": manifest_hash(read_manifest(store)), "truth_sha256": found}
    same = replace(POLICY, validation=ValidationSection(store=store, truth=truth, **frozen.hashes))
    assert open_frozen(same, None, None, {}) == frozen
    other = manifest_hash(read_manifest(training_store))
    with pytest.raises(
        RegistryError, match=f"validation store .* {other}, but {frozen.manifest_hash} was frozen by the po"
    ):
        open_frozen(same, training_store, truth, {})
    changed = tmp_path / "truth.parquet"
    pd.read_parquet(truth).assign(rho=100.0).to_parquet(changed)
    with pytest.raises(
        RegistryError, match=f"validation truth table .*but {found} was frozen by the last promotion: judge"
    ):
        open_frozen(POLICY, store, changed, frozen.hashes)


def test_frames_must_be_named_and_be_there(held_out, tmp_path):
    with pytest.raises(RegistryError, match="no frozen validation frames: give --store STORE"):
        open_frozen(POLICY, None, None, {})
    with pytest.raises(RegistryError, match=r"truth table .*absent\.parquet does not exist"):
        open_frozen(POLICY, held_out[0], tmp_path / "absent.parquet", {})


def summary_row(**values):
    row = {"completeness": 0.6, "completeness_low": 0.5, "completeness_high": 0.7, "n_events": 40}
    return pd.Series({**row, "rate_per_hour": 50.0, "live_hours": 0.2, "shuffled": False, **values})


@pytest.mark.parametrize(("share", "passed"), [(0.5, True), (0.499, False)])
def test_completeness_has_a_floor(share, passed):
    gate = gates._completeness_gate(summary_row(completeness=share), POLICY)
    assert gate.passed is passed
    assert gate.limit == "at least 0.5, of 40 events at 50 false alarms per hour"


def test_controls_and_short_frames_are_kept_out():
    assert gates._labels_gate(summary_row()).passed
    assert not gates._labels_gate(summary_row(shuffled=True)).passed
    assert gates._live_time_gate(summary_row(), POLICY).passed
    assert not gates._live_time_gate(summary_row(live_hours=0.09), POLICY).passed


def test_a_model_trained_on_the_frozen_frames_is_kept_out(tmp_path):
    frozen = SimpleNamespace(manifest_hash="abc", store="frozen")
    manifest = pd.DataFrame({"entry": ["e"], "content_hash": ["1"], "sequence": ["night"]})
    assert gates._unseen_gate(tmp_path, frozen, manifest).passed
    for trained_on, passed in (("def+123", True), ("def+abc", False), ("abc", False)):
        (tmp_path / "training.json").write_text(json.dumps({"manifest_hash": trained_on}))
        assert gates._unseen_gate(tmp_path, frozen, manifest).passed is passed
    (tmp_path / "training.json").write_text(json.dumps({"trained_on": {"sequences": ["night"]}}))
    gate = gates._unseen_gate(tmp_path, frozen, manifest)
    assert not gate.passed
    assert "sequence 'night'" in gate.value


@pytest.mark.parametrize(
    ("threshold", "measured", "passed"), [(2.5, "30.0", True), (0.5, "50.0", True), (9.0, "0.0", True)]
)
def test_false_alarms_are_counted_above_the_models_own_threshold(tmp_path, threshold, measured, passed):
    """Five alarms of scores 1 to 5 in a tenth of an amplifier-hour."""
    write_rates(tmp_path, RateCurve(np.arange(5.0, 0.0, -1.0), 0.1), "hash")
    gate = gates._false_alarm_gate(tmp_path, threshold, POLICY)
    assert gate.value.startswith(f"{measured} (")
    assert gate.passed is passed


def test_too_many_false_alarms_are_refused(tmp_path):
    """Garwood 1936: twelve counts have a 95 % interval of 6.20 to 20.96."""
    write_rates(tmp_path, RateCurve(np.full(12, 3.0), 0.1), "hash")
    gate = gates._false_alarm_gate(tmp_path, 2.0, POLICY)
    assert gate == Gate(
        "false alarms", "120.0 (62.0 to 209.6): 12 in 0.1 amplifier-hours",
        "at most 100 per amplifier-hour, at the model's own threshold for 50", False,
    )  # fmt: skip


def test_a_model_without_a_false_alarm_curve_is_refused(tmp_path):
    write_rates(tmp_path, RateCurve(np.ones(2), 0.1), "hash")
    gate = gates._false_alarm_gate(tmp_path, None, POLICY)
    assert (gate.value, gate.passed) == ("unknown: the model brings no false-alarm curve", False)


def test_calibration_error_by_hand():
    """Bins of 30 and 10 triggers that are off by 0.1 and 0.3: (30 × 0.1 + 10 × 0.3) / 40 = 0.15."""
    table = pd.DataFrame(
        {"detector": ["a", "a", "a", "b"], "mean_probability": [0.2, 0.9, np.nan, 0.9],
         "observed_fraction": [0.1, 0.6, np.nan, 0.0], "n": [30, 10, 0, 99]}
    )  # fmt: skip
    gate = gates._calibration_gate(table, "a", POLICY)
    assert gate == Gate("calibration error", "0.150", "at most 0.1, over 40 triggers", False)
    assert gates._calibration_gate(table[2:3], "a", POLICY).passed is False  # without counts not well calibrated


@pytest.mark.parametrize(("speed", "passed"), [(50.0, True), (49.0, False)])
def test_throughput_has_a_floor(speed, passed):
    assert gates._throughput_gate(speed, POLICY).passed is passed


def paired(ours, theirs):
    """Events of two detectors, ten in each of ten files."""
    place = {"entry": np.repeat([f"e{i}" for i in range(10)], 10), "event_id": np.arange(100)}
    place |= {"file": place["entry"], "sequence": "one"}
    parts = [
        pd.DataFrame({**place, "detector": name, "found": found}) for name, found in (("new", ours), ("old", theirs))
    ]
    return pd.concat([parts[0], parts[1].sample(frac=1, random_state=1)], ignore_index=True)


def test_a_challenger_that_is_equal_or_better_passes():
    half = np.arange(100) % 2 == 0
    for ours in (half, np.ones(100, dtype=bool)):
        against, known = gates._champion_gates(paired(ours, half), "new", "old", POLICY)
        assert (against.passed, known.passed) == (True, True)
    assert known.value == "0.000"
    assert known.limit.endswith("from 10 blocks")


def test_a_challenger_behind_by_more_than_the_error_is_refused():
    """One event fewer in each file: 0.1 behind, in every block alike, so without error."""
    half = np.arange(100) % 2 == 0
    fewer = half & (np.arange(100) % 10 != 0)
    against, known = gates._champion_gates(paired(fewer, half), "new", "old", POLICY)
    assert against.value == "-0.100 ± 0.000 (-0.100 to -0.100)"
    assert against.limit == "at least −0.000 (1 × its error); old found 0.500"
    assert (against.passed, known.passed) == (False, True)


def test_a_challenger_behind_within_the_error_passes_and_a_vague_error_does_not():
    """Three files each lose, two each gain 0.5: behind by 0.05, with an error of about 0.11."""
    theirs = np.tile([True] * 5 + [False] * 5, 10)
    ours = theirs.copy()
    ours[:30] = False
    ours[30:50] = True
    against, known = gates._champion_gates(paired(ours, theirs), "new", "old", POLICY)
    assert against.value.startswith("-0.050 ± 0.1")
    assert (against.passed, known.passed) == (True, False)


def test_gates_as_a_table_and_in_the_history():
    judgement = Judgement([Gate("a", "1", "at least 0", True), Gate("longer", "x" * 300, "none", False)], None)
    assert not judgement.passed
    first, *rest = judgement.table().splitlines()
    assert first.split() == ["gate", "value", "limit"]
    assert [line.split()[-1] for line in rest] == ["pass", "FAIL"]
    assert len(judgement.gates[1].to_dict()["value"]) == GATE_LENGTH


@pytest.fixture(scope="module")
def rivals(make_model, held_out):
    """The bundled model, and a random one with a false-alarm curve of its own, counted with the frames' camera."""
    weak, hour = make_model("weak"), pixel_rows_per_hour(read_manifest(held_out[0]))
    write_rates(weak, RateCurve(np.linspace(2, -4, 50), 0.01, hour), "elsewhere")
    return bundled_folder() / "transformer", weak


@pytest.fixture(scope="module")
def judged(rivals, held_out, tmp_path_factory):
    """A random challenger against the bundled champion."""
    strong, weak = rivals
    frozen = open_frozen(LENIENT, *held_out, {})
    before = {path: path.read_bytes() for folder in rivals for path in folder.glob("*.json")}
    scratch = tmp_path_factory.mktemp("scratch")
    found = judge_challenger(("weak-v2", weak), ("strong-v1", strong), frozen, LENIENT, scratch)
    assert {path: path.read_bytes() for folder in rivals for path in folder.glob("*.json")} == before
    return found


def test_both_are_measured_in_one_run_and_nothing_is_written_beside_their_weights(judged):
    assert judged.evaluation.summary["detector"].tolist() == ["weak-v2", "strong-v1"]
    assert [gate.name for gate in judged.gates] == [
        "labels", "frames unseen", "live time", "completeness", "false alarms", "calibration error", "throughput",
        "against champion", "error of comparison",
    ]  # fmt: skip


def test_a_random_challenger_does_not_pass_the_bundled_champion(judged):
    failed = [gate.name for gate in judged.gates if not gate.passed]
    assert failed == ["against champion"]
    summary = judged.evaluation.summary.set_index("detector")["completeness"]
    difference = float(next(gate for gate in judged.gates if gate.name == "against champion").value.split()[0])
    assert difference == pytest.approx(summary["weak-v2"] - summary["strong-v1"], abs=5e-4)


@pytest.fixture(scope="module")
def judged_alone(rivals, held_out, tmp_path_factory):
    """The random model where there is no champion, and the folder of its evaluation."""
    scratch = tmp_path_factory.mktemp("alone")
    frozen = open_frozen(LENIENT, *held_out, {})
    return judge_challenger(("weak", rivals[1]), None, frozen, LENIENT, scratch), scratch / "evaluation"


def test_a_first_promotion_has_floors_and_ceilings_only(judged_alone):
    found, _ = judged_alone
    assert found.passed
    assert [gate.name for gate in found.gates][-1] == "throughput"


def test_false_alarms_are_the_clusters_above_the_models_own_threshold(judged_alone, judged):
    """Counted again from the detections; the model's threshold for 1,000 per hour is its tenth alarm in 0.01 hours."""
    detections = pd.read_parquet(judged_alone[1] / "detections.parquet")
    threshold = np.linspace(2, -4, 50)[9]
    above = detections[detections["entry"].str.startswith("calm") & (detections["weak/score"] >= threshold)]
    n = len(set(cluster_detections(above)))
    for found in (judged_alone[0], judged):
        value = next(gate for gate in found.gates if gate.name == "false alarms").value
        assert value.split(": ")[1].startswith(f"{n} in ")


def test_more_false_alarms_than_are_written_down_are_too_many(tmp_path):
    write_rates(tmp_path, RateCurve(np.full(700, 3.0), 100.0), "hash")
    gate = gates._false_alarm_gate(tmp_path, 2.0, POLICY)
    assert gate.value.startswith("at least 5.0 (")
    assert not gate.passed


def test_tables_of_a_judgement_are_plain(judged, tmp_path):
    judged.write(tmp_path / "attached")
    names = {path.name for path in (tmp_path / "attached").iterdir()}
    assert names == {"summary.csv", "completeness.csv", "apart.csv", "reliability.csv", "gates.csv", "verdict.txt"}
    attached = pd.read_csv(tmp_path / "attached" / "gates.csv")
    assert attached["passed"].tolist() == [gate.passed for gate in judged.gates]
