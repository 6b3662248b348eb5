"""Check a challenger against the policy and the champion, both measured on the frozen frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import poisson_interval
from shutterless.models.evaluation.paired_bootstrap import choose_blocks, paired_difference
from shutterless.models.evaluation.platt import reliability_error
from shutterless.pipeline.store.store import read_manifest
from shutterless.workflows.comparison.evaluate import (
    Evaluation,
    evaluate_detectors,
    measure_throughput,
    pixel_rows_per_hour,
)
from shutterless.workflows.comparison.unseen import SeenError, check_not_trained_on
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.registry.history import GATE_LENGTH
from shutterless.workflows.registry.policy import FrozenFrames, Policy
from shutterless.workflows.searching.detect import read_rates
from shutterless.workflows.settings.settings import EvaluateSettings
from shutterless.workflows.tracking.record import TRAINING

_KEPT_SCORES = 500  # that a written false-alarm curve holds (`RateCurve.to_dict`); further alarms cannot be counted


@dataclass(frozen=True)
class Gate:
    """One condition: the measured value, the limit in words, and whether it holds."""

    name: str
    value: str
    limit: str
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the history, with texts cut to its limit."""
        words = {"value": self.value[:GATE_LENGTH], "limit": self.limit[:GATE_LENGTH]}
        return {"name": self.name, **words, "passed": self.passed}


@dataclass(frozen=True)
class Judgement:
    """Gates of a challenger, and the evaluation behind them."""

    gates: list[Gate]
    evaluation: Evaluation

    @property
    def passed(self) -> bool:
        """Whether the challenger passes every gate."""
        return all(gate.passed for gate in self.gates)

    def table(self) -> str:
        """Return the gates as a table for a terminal."""
        rows = [(gate.name, gate.value, gate.limit, "pass" if gate.passed else "FAIL") for gate in self.gates]
        rows = [("gate", "value", "limit", ""), *rows]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
            for row in rows
        )

    def write(self, folder: Path) -> None:
        """Write the tables of the evaluation and the gates as CSV."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("summary", "completeness", "apart", "reliability"):
            getattr(self.evaluation, name).to_csv(folder / f"{name}.csv", index=False)
        pd.DataFrame([gate.to_dict() for gate in self.gates]).to_csv(folder / "gates.csv", index=False)
        (folder / "verdict.txt").write_text(self.evaluation.verdict + "\n", encoding="utf-8")


def judge_challenger(
    challenger: tuple[str, Path],
    champion: tuple[str, Path] | None,
    frozen: FrozenFrames,
    policy: Policy,
    scratch: Path,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Judgement:
    """Measure a challenger and, in the same run, the champion on the frozen frames.

    Parameters
    ----------
    challenger, champion : tuple of str and Path
        Name in tables, and folder of the model. Without a champion only floors and ceilings count.
    frozen : FrozenFrames
    policy : Policy
    scratch : Path
        For copies of the models and the tables of the evaluation, so that nothing is written beside registered
        models.
    executor, progress : optional
    """
    folders = [scratch / "models" / name for name, _ in (challenger, *([champion] if champion else []))]
    for (_, source), folder in zip((challenger, champion), folders, strict=False):  # type: ignore[misc]
        shutil.copytree(source, folder)
    manifest = read_manifest(frozen.store)
    # before the evaluation writes its own curve beside the copy
    threshold = _own_threshold(folders[0], policy, pixel_rows_per_hour(manifest))
    evaluation = evaluate_detectors(
        frozen.store,
        references=[str(folder) for folder in folders],
        truth=frozen.truth,
        out=scratch / "evaluation",
        settings=EvaluateSettings(seed=policy.champion.seed),
        executor=executor,
        progress=progress,
        allow_seen=True,  # a gate says so
    )
    speed = measure_throughput(str(folders[0]), frozen.store, manifest["entry"].iloc[0])
    own = evaluation.summary.set_index("detector").loc[challenger[0]]
    gates = [
        _labels_gate(own),
        _unseen_gate(folders[0], frozen, manifest),
        _live_time_gate(own, policy),
        _completeness_gate(own, policy),
        _false_alarm_gate(folders[0], threshold, policy),
        _calibration_gate(evaluation.reliability, challenger[0], policy),
        _throughput_gate(speed, policy),
    ]
    if champion is not None:
        gates += _champion_gates(evaluation.events, challenger[0], champion[0], policy)
    return Judgement(gates, evaluation)


def _own_threshold(folder: Path, policy: Policy, pixel_rows: float) -> float | None:
    """A model's own threshold at the policy's rate per hour of pixel-rows."""
    curve = read_rates(folder)
    return None if curve is None else curve.threshold(policy.threshold.false_alarms_per_hour, pixel_rows)[0]


def _labels_gate(own: pd.Series) -> Gate:
    """Refuse controls: they were trained with shuffled labels and may still rank strips well."""
    return Gate("labels", "shuffled" if own["shuffled"] else "true", "true", not own["shuffled"])


def _unseen_gate(folder: Path, frozen: FrozenFrames, manifest: pd.DataFrame) -> Gate:
    """Refuse a model that was trained on the frozen frames, or on a part of them."""
    path = folder / TRAINING
    known = json.loads(path.read_text(encoding="utf-8")).get("manifest_hash", "") if path.is_file() else ""
    value, unseen = f"trained on {known or 'frames that nobody recorded'}", frozen.manifest_hash not in known.split("+")
    try:
        check_not_trained_on(folder, manifest, frozen.store)
    except SeenError as error:
        value, unseen = value if not unseen else str(error), False
    return Gate("frames unseen", value, f"not {frozen.manifest_hash}", unseen)


def _live_time_gate(own: pd.Series, policy: Policy) -> Gate:
    """Refuse frames with too little live time to count false alarms."""
    floor, hours = policy.floors.live_hours, float(own["live_hours"])
    limit = f"at least {floor:g}, free of events, to count false alarms in"
    return Gate("live time", f"{hours:.3g} amplifier-hours", limit, hours >= floor)


def _completeness_gate(own: pd.Series, policy: Policy) -> Gate:
    floor = policy.floors.completeness
    value = f"{own['completeness']:.3f} ({own['completeness_low']:.3f} to {own['completeness_high']:.3f})"
    limit = f"at least {floor:g}, of {own['n_events']:.0f} events at {own['rate_per_hour']:.0f} false alarms per hour"
    return Gate("completeness", value, limit, bool(own["completeness"] >= floor))


def _false_alarm_gate(folder: Path, threshold: float | None, policy: Policy) -> Gate:
    """Count the false alarms above the model's own threshold."""
    ceiling, rate = policy.ceilings.false_alarms_per_hour, policy.threshold.false_alarms_per_hour
    limit = f"at most {ceiling:g} per amplifier-hour, at the model's own threshold for {rate:g}"
    counted = read_rates(folder)
    if threshold is None or counted is None:
        return Gate("false alarms", "unknown: the model brings no false-alarm curve", limit, False)
    n = int((counted.scores >= threshold).sum())
    low, high = (end / counted.live_hours for end in poisson_interval(n))
    measured = n / counted.live_hours
    value = f"{measured:.1f} ({low:.1f} to {high:.1f}): {n} in {counted.live_hours:.3g} amplifier-hours"
    if n >= _KEPT_SCORES:
        return Gate("false alarms", f"at least {value}", limit, False)
    return Gate("false alarms", value, limit, measured <= ceiling)


def _calibration_gate(reliability: pd.DataFrame, name: str, policy: Policy) -> Gate:
    """Judge the expected calibration error: mean distance of predicted and observed frequency over all triggers."""
    own = reliability[reliability["detector"] == name]
    n, error = own["n"].sum(), reliability_error(own)
    ceiling = policy.ceilings.calibration_error
    return Gate("calibration error", f"{error:.3f}", f"at most {ceiling:g}, over {n} triggers", error <= ceiling)


def _throughput_gate(speed: float, policy: Policy) -> Gate:
    floor = policy.floors.strips_per_second
    return Gate("throughput", f"{speed:,.0f} strips/s", f"at least {floor:,.0f} on one thread", speed >= floor)


def _champion_gates(events: pd.DataFrame, challenger: str, champion: str, policy: Policy) -> list[Gate]:
    """Compare the events that both found, block by block: how far the challenger is behind, with its error."""
    ours, theirs = (
        events[events["detector"] == name].sort_values(["entry", "event_id"], ignore_index=True)
        for name in (challenger, champion)
    )
    settings = policy.champion
    found = paired_difference(
        ours["found"].to_numpy(), theirs["found"].to_numpy(), choose_blocks(ours).to_numpy(),
        n_samples=settings.bootstrap, seed=settings.seed,
    )  # fmt: skip
    allowed = settings.standard_errors * found.standard_error
    share = float(np.mean(theirs["found"].to_numpy()))
    value = f"{found.difference:+.3f} ± {found.standard_error:.3f} ({found.low:+.3f} to {found.high:+.3f})"
    behind = f"at least −{allowed:.3f} ({settings.standard_errors:g} × its error); {champion} found {share:.3f}"
    known = f"at most {settings.largest_standard_error:g}, from {found.n_blocks} blocks"
    return [
        Gate("against champion", value, behind, bool(found.difference >= -allowed)),
        Gate(
            "error of comparison", f"{found.standard_error:.3f}", known,
            bool(found.standard_error <= settings.largest_standard_error),
        ),
    ]  # fmt: skip
