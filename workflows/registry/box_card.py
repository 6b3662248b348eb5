"""Write the card of a registered detector of boxes, in Markdown: training data, purpose, precision, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shutterless.models.boxes.saved import load_boxes
from shutterless.models.describe import count_parameters
from shutterless.pipeline.stored_files import read_json
from shutterless.workflows.registry.store import RegistryStore
from shutterless.workflows.tracking.record import TRAINING
from shutterless.workflows.tracking.tracking import pinned_requirements

_SIZES = ("attention", "channels", "n_layers", "n_heads", "tile_px", "pixel_scale_arcsec")


def write_box_card(registry: RegistryStore, version: str, folder: Path, reference: str, trained_on: str) -> str:
    """Write the card, with what a reader needs first at the top.

    Parameters
    ----------
    registry : RegistryStore
    version : str
    folder : Path
        With the detector, and ``training.json`` of its training.
    reference : str
        The model, as it was given to `register`.
    trained_on : str
        The user's description of the images.
    """
    model = load_boxes(folder)
    facts = read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    run = registry.run_of(version)
    logged = f", logged by run {run.info.run_id}" if run is not None else ""
    sizes = {name: getattr(model.config, name) for name in _SIZES}
    sections = [
        f"# {registry.name}, version {version}\n\nA detector of {count_parameters(model):,} parameters that boxes "
        f"{', '.join(model.config.kinds or ())} in two-dimensional images. Registered from {Path(reference).name}"
        f"{logged}. Weights are safetensors; nothing in it is unpickled.",
        "## Trained on\n\n" + "\n".join(f"- {line}" for line in _data(facts, trained_on)),
        "## For\n\n- `shutterless boxes find`, as it is, or `boxes train --init` to learn from boxes of your own.\n\n"
        "## Not for\n\n- Frames: it finds no events, and is neither searched with nor promoted.\n"
        "- Rates: a score is a ranking.",
        "## How good\n\n" + _results(facts),
        "## Hyperparameters\n\n" + _table({**sizes, **facts.get("settings", {})}),
        "## Requirements\n\n" + "\n".join(f"- {line}" for line in pinned_requirements()),
    ]
    return "\n\n".join(sections) + "\n"


def _data(facts: Mapping[str, Any], trained_on: str) -> list[str]:
    stated = trained_on or facts.get("trained_on")
    lines = [f"Images: {stated or '**not stated** whether simulated or real (`register --trained-on`)'}"]
    if "n_boxes" in facts:
        lines.append("Boxes: " + ", ".join(f"{n:,} {kind}" for kind, n in facts["n_boxes"].items()))
    if "fields" in facts:
        lines.append(f"{facts['n_images']:,} images of {len(facts['fields']):,} fields")
    if "init" in facts:
        lines.append(f"Started from {Path(facts['init']).name}")
    return lines


def _results(facts: Mapping[str, Any]) -> str:
    precision = facts.get("precision_at_70_percent")
    if not precision:
        return "Not judged on fields held out when it was registered."
    rows = {f"{kind}: precision at 70 % recall, fields held out": f"{value:.0%}" for kind, value in precision.items()}
    return _table(rows)


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
