"""Options and arguments that several commands share, each with its help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer


class FamilyOption(StrEnum):
    """Families of detectors."""

    TRANSFORMER = "transformer"
    CNN = "cnn"
    MLP = "mlp"
    FOREST = "forest"
    COMBINED = "combined"


@dataclass(frozen=True)
class DefaultOf:
    """Default of an option that stands elsewhere, looked up when it is asked for: to name it imports nothing.

    Parameters
    ----------
    place : str
        ``"module:Class.name"``, below ``shutterless``.
    """

    place: str

    def __call__(self) -> Any:
        """Value of the option: of several what stands there, separated by commas."""
        value = resolve_name(f"shutterless.{self.place}")
        return ",".join(map(str, value)) if isinstance(value, tuple) else value


def scene_option(name: str, text: str) -> Any:
    """Option for a setting of a simulated scene."""
    return typer.Option(help=text, default_factory=DefaultOf(f"pipeline.simulation.settings:SceneSettings.{name}"))


Files = Annotated[list[Path], typer.Argument(help="FITS files.", show_default=False)]
Store = Annotated[Path, typer.Argument(help="Store made by `shutterless ingest`.", show_default=False)]
Config = Annotated[
    Path | None, typer.Option(help="TOML file; it need hold only the keys it changes.", show_default=False)
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value; repeatable. SECTION.KEY is a setting (train.epochs=2), "
        "a bare KEY a header value (ROWRATE=300).",
        show_default=False,
    ),
]
Instrument = Annotated[
    str | None,
    typer.Option(help="Profile name or TOML file; recognised from the header if left out.", show_default=False),
]
Workers = Annotated[int | None, typer.Option(help="Local worker processes; default: one per core.", show_default=False)]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of an existing Dask scheduler; default: none is used.", show_default=False)
]
Slurm = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Run in SLURM jobs: jobs, cores, memory, walltime, … of this file (default: none); --dry-run shows the "
        "script.",
        show_default=False,
    ),
]
NoDask = Annotated[bool, typer.Option("--no-dask", help="Do everything in this process.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is finished in that folder.")]
AsStack = Annotated[
    bool, typer.Option("--stack", help="Take the single images of all files, or of all HDUs of one, for one cube.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Keep what is already finished.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be read and written and how long it takes; do nothing.")
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        help="Folder or URI of the tracking store; default: MLFLOW_TRACKING_URI, else the folder runs.",
        show_default=False,
    ),
]
FalseAlarms = Annotated[
    float | None,
    typer.Option(
        help="False alarms per amplifier-hour at which to cut; default: 50, or search.false_alarms_per_hour.",
        show_default=False,
    ),
]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        help="Stars with ra, dec, mag (CSV, ECSV, FITS, VOTable, Parquet) or x, y, mag: names, positions, event times. "
        "Default: none.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
MODEL_HELP = "Folder, models:/NAME@ALIAS, run id, bundled, bundled-forest, bundled-transformer or template-bank."
