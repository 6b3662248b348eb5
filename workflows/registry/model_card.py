"""Write the card of a registered model, in Markdown: architecture, training data, purpose and evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.models.describe import count_parameters, hyperparameters
from shutterless.models.evaluation.platt import reliability_error
from shutterless.models.families import family_of, load_model
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.registry.store import RegistryError, RegistryStore
from shutterless.workflows.tracking.record import LEARNING_CURVE, TRAINING
from shutterless.workflows.tracking.tracking import BUNDLED, pinned_requirements

CARD = "model_card.md"
TABLES = ("summary", "completeness", "apart", "reliability")
_SUMMARY = (
    ("completeness", "completeness", "{:.3f}"),
    ("completeness_low", "… from (95 % bootstrap)", "{:.3f}"),
    ("completeness_high", "… to", "{:.3f}"),
    ("n_events", "events it was counted on", "{:.0f}"),
    ("rate_per_hour", "false alarms per amplifier-hour", "{:.1f}"),
    ("live_hours", "amplifier-hours searched for false alarms", "{:.3g}"),
    ("rho50", "ρ at which half is found", "{:.2f}"),
    ("loss_mag", "loss against the optimum (mag)", "{:.2f}"),
    ("calibration_error", "expected calibration error", "{:.3f}"),
    ("strips_per_second", "strips per second on one thread", "{:,.0f}"),
)
_BUNDLED_FRAMES = "simulated frames only (two CCDs, cosmic rays and pickup on); trained on no real frame"


@dataclass(frozen=True)
class AttachedEvaluation:
    """Tables of an evaluation, and one of its detectors."""

    detector: str
    tables: dict[str, pd.DataFrame]

    @property
    def row(self) -> dict[str, Any]:
        """The detector's row of the summary."""
        own = self.tables["summary"]
        return own[own["detector"] == self.detector].iloc[0].to_dict()

    def write(self, folder: Path) -> None:
        """Write the tables of all detectors of the evaluation as CSV."""
        folder.mkdir(parents=True)
        for name, table in self.tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)


@dataclass(frozen=True)
class CardFacts:
    """Contents of the card; unrecorded values are empty."""

    name: str
    version: str
    family: str
    n_parameters: int
    grid: TokenGrid
    kinds: list[str]
    hyperparameters: dict[str, Any]
    training: dict[str, Any]
    trained_on: str
    requirements: list[str]
    source: str
    run_id: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    diagnosis: dict[str, str] = field(default_factory=dict)
    calibration: tuple[float, float] = (1.0, 0.0)


def read_evaluation(folder: Path, reference: str, model: Path) -> AttachedEvaluation:
    """Read the tables that `shutterless evaluate` wrote, for the detector that is this model.

    Raises
    ------
    RegistryError
        If the folder holds no evaluation, or none of this model; the message names its detectors.
    """
    if not (folder / "summary.parquet").is_file():
        raise RegistryError(f"{folder} holds no evaluation: summary.parquet is missing; give `evaluate`'s --out")
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    tables = {name: pd.read_parquet(path) for name, path in paths.items() if path.is_file()}
    names = [Path(reference).name, reference.replace("/", "-"), model.name]
    known = tables["summary"]["detector"].tolist()
    found = [name for name in names if name in known]
    if not found:
        raise RegistryError(f"the evaluation in {folder} judged {known}, not {reference}; evaluate it there first")
    return AttachedEvaluation(found[0], tables)


def gather_facts(
    registry: RegistryStore,
    version: str,
    folder: Path,
    reference: str,
    evaluation: AttachedEvaluation | None,
    trained_on: str,
) -> CardFacts:
    """Collect the facts on a version from its folder, the run that logged it, and an evaluation.

    Parameters
    ----------
    registry : RegistryStore
    version : str
    folder : Path
        With the model's configuration, and the files of its training.
    reference : str
        The model, as it was given to `register`.
    evaluation : AttachedEvaluation, optional
        Its numbers take precedence over those that the run logged.
    trained_on : str
        The user's description of the frames.
    """
    model = load_model(folder)
    path = folder / TRAINING
    run = registry.run_of(version)
    metrics = dict(run.data.metrics) if run is not None else {}
    if evaluation is not None:
        metrics |= evaluation.row
        metrics |= _calibration_error(evaluation)
    tags = dict(run.data.tags) if run is not None else {}
    return CardFacts(
        name=registry.name,
        version=version,
        family=family_of(model),
        n_parameters=count_parameters(model),
        grid=model.grid,
        kinds=list(model.config.kinds or []),
        hyperparameters=hyperparameters(model),
        training=json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {},
        trained_on=trained_on or (_BUNDLED_FRAMES if reference in BUNDLED else ""),
        requirements=pinned_requirements(),
        source=reference if reference in BUNDLED else Path(reference).name,
        run_id=run.info.run_id if run is not None else "",
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, int | float)},
        diagnosis={name: value for name, value in tags.items() if name.startswith(LEARNING_CURVE)},
        calibration=(model.config.calibration_slope, model.config.calibration_intercept),
    )


def _calibration_error(evaluation: AttachedEvaluation) -> dict[str, float]:
    table = evaluation.tables.get("reliability")
    if table is None or table.empty or not (own := table[table["detector"] == evaluation.detector])["n"].sum():
        return {}
    return {"calibration_error": reliability_error(own)}


def write_card(facts: CardFacts) -> str:
    """Write the card, with the sections that a reader needs first at the top."""
    sections = [
        _identity(facts),
        _data(facts),
        _use(facts),
        _results(facts),
        _curve(facts),
        _sizes(facts),
        "## Requirements\n\n" + "\n".join(f"- {line}" for line in facts.requirements),
    ]
    return "\n\n".join(sections) + "\n"


def _identity(facts: CardFacts) -> str:
    logged = f", logged by run {facts.run_id}" if facts.run_id else ""
    return (
        f"# {facts.name}, version {facts.version}\n\nA {facts.family} of {facts.n_parameters:,} parameters that tells "
        f"events from noise and cosmic rays in strips of time-resolved images. Registered from {facts.source}{logged}. "
        "Weights are safetensors; nothing in it is unpickled."
    )


def _data(facts: CardFacts) -> str:
    known = facts.training
    lines = [f"- Frames: {facts.trained_on or '**not stated** whether simulated or real (`register --trained-on`)'}"]
    lines.append(f"- Hash of the store's manifest: {known.get('manifest_hash') or 'not recorded'}")
    if "n_strips" in known:
        lines.append(f"- Strips: {known['n_strips']:,}, and {known['n_validation_strips']:,} set apart for validation")
    if known.get("shuffled"):
        lines.append("- **Trained with shuffled labels: a control, not a detector**")
    if "seed" in known:
        lines.append(f"- Seed {known['seed']}, best epoch {known['best_epoch']:g}, {known['train_seconds']:.0f} s")
    return "## Trained on\n\n" + "\n".join(lines)


def _use(facts: CardFacts) -> str:
    grid = facts.grid
    cut = f"{grid.n_columns} columns × {grid.n_rows} rows in patches of {grid.patch_rows} rows"
    cut += f", {grid.n_y} image rows high" if grid.n_y > 1 else ""
    bins = ", ".join(map(str, grid.bins))
    return (
        "## For\n\n"
        f"- Ranking and classifying triggers of the template bank; its strips are {cut}, rows binned by {bins}. A "
        "store of another kind of image is refused.\n"
        f"- Classes: {', '.join(facts.kinds)}.\n\n"
        "## Not for\n\n"
        "- Sampling, PSF or pixel scales unlike those of its training frames: judge it on your own first "
        "(`shutterless evaluate`).\n"
        "- Rates on a night: its probabilities hold for the mix it was trained on, half of it events or so; elsewhere "
        "they are a ranking.\n"
        "- Events longer than its longest strip, and kinds that its training frames did not hold."
    )


def _results(facts: CardFacts) -> str:
    rows = [
        f"| {label} | {pattern.format(facts.metrics[name])} |"
        for name, label, pattern in _SUMMARY
        if name in facts.metrics and pd.notna(facts.metrics[name])
    ]
    slope, intercept = facts.calibration
    scaled = f"Probability = sigmoid({slope:.4g} × logit {intercept:+.4g}), fitted on validation strips."
    if not rows:
        return f"## How good\n\nNot evaluated when it was registered. {scaled}"
    table = "\n".join(["| measured | |", "|---|---|", *rows])
    return f"## How good\n\n{table}\n\n{scaled} Tables are under `evaluation/`."


def _curve(facts: CardFacts) -> str:
    lines = [f"- {name}: {value}" for name, value in sorted(facts.diagnosis.items())]
    return "## Learning curve\n\n" + ("\n".join(lines) if lines else "No diagnosis was recorded.")


def _sizes(facts: CardFacts) -> str:
    def table(values: Mapping[str, Any]) -> str:
        return "\n".join(f"| {name} | {value} |" for name, value in values.items())

    return f"## Hyperparameters\n\n| | |\n|---|---|\n{table(facts.hyperparameters)}"
