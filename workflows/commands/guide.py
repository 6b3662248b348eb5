"""Say what to do next after a command, and show examples in its help. Imports nothing heavy."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

EXAMPLES = {
    "run": ("shutterless run --out runs/quickstart",),
    "simulate": ("shutterless simulate --out night --rows 8000 --events 8 --seed 3",),
    "inject": ("shutterless inject night/*.fits.fz --out blind --events 5 --hide truth",),
    "check": ("shutterless check night/*.fits.fz",),
    "ingest": ("shutterless ingest quiet/*.fits.fz --out mystore", "shutterless ingest quiet --out mystore --resume"),
    "pretrain": ("shutterless pretrain mystore --out encoder",),
    "train": (
        "shutterless train mystore --model cnn --out mymodel",
        "shutterless train mystore --init encoder --set train.epochs=5 --out mymodel",
        "shutterless train mystore --labels found/vetting/labels.csv --suspects --out mymodel",
    ),
    "tune": ("shutterless tune mystore --out sweep --set tune.trials=20",),
    "evaluate": (
        "shutterless evaluate trialstore --model mymodel --model template-bank --out judged",
        "shutterless evaluate nightstore --labels found/vetting/labels.csv --out judged",
    ),
    "compare": ("shutterless compare --experiment evaluate --out comparison",),
    "describe": ("shutterless describe bundled-transformer", "shutterless describe --layers 3-4-3-1"),
    "search": (
        "shutterless search night/*.fits.fz --out found",
        "shutterless search night --model mymodel --false-alarms-per-hour 10 --out found",
        "shutterless search odd.fits --set ROWRATE=300 --out found",
    ),
    "watch": (
        "shutterless watch incoming --out found --stop-after 60",
        "shutterless watch incoming --out found --alerts alerts",
    ),
    "compare-searches": ("shutterless compare-searches found found-by-mymodel --out both",),
    "limits": (
        "shutterless limits found --evaluation judged --out rates",
        "shutterless limits night1 night2 --evaluation judged --kind burst --out rates",
    ),
    "recurrences": ("shutterless recurrences night1 night2 night3 --out again",),
    "export": (
        "shutterless export found",
        "shutterless export found --format finder --format alerts --out tonight",
    ),
    "lightcurve": ("shutterless lightcurve night/*.fits.fz --x 1204.5 --format fits --out curves",),
    "report": ("shutterless report found",),
    "vet": (
        "shutterless vet found --who ada --blind 20",
        "shutterless vet found --summary",
        "shutterless vet found --only mymodel/suspects.csv",
    ),
    "boxes label": ("shutterless boxes label diff/*.fits.fz --kind echo --kind artefact --out labels",),
    "boxes train": ("shutterless boxes train labels/labels.json --out mydetector",),
    "boxes find": (
        "shutterless boxes find diff/*.fits.fz --model mydetector --out found",
        "shutterless boxes find diff/*.fits --kind echo --least-score 0.5",
    ),
    "register": ("shutterless register mymodel --name mine --alias champion",),
    "promote": ("shutterless promote mine 2 --store trialstore --reason 'finds more'",),
    "rollback": ("shutterless rollback mine --reason 'too many false alarms'",),
    "history": ("shutterless history mine",),
    "serve": ("shutterless serve --model models:/mine@champion --port 8437 --allow night",),
}


def describe_examples(command: str) -> str:
    """Last part of the help of a command."""
    lines = EXAMPLES[command]
    return f"Example{'s' if len(lines) > 1 else ''}:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)


def suggest(*steps: str | tuple[object, ...], quiet: bool = False) -> None:
    """Print what to do next, on standard error.

    Parameters
    ----------
    *steps : str or tuple
        Words, or the arguments of a command of shutterless.
    quiet : bool
        Print nothing.
    """
    if quiet:
        return
    words = (step if isinstance(step, str) else shlex.join(["shutterless", *map(_shown, step)]) for step in steps)
    typer.echo("next: " + "; or ".join(words), err=True)


def _shown(word: object) -> str:
    return word.as_posix() if isinstance(word, Path) else str(word)
