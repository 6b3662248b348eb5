"""Commands that learn from boxes and find them in images: boxes train, boxes find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shutterless.workflows.commands.application import command
from shutterless.workflows.commands.console import DONE, choose_tracking, list_failures, make_progress
from shutterless.workflows.commands.guide import suggest
from shutterless.workflows.commands.options import Debug, DefaultOf, Force, Quiet, TrackingOption


@command
def boxes_train(
    labels: Annotated[
        Path, typer.Argument(help="COCO file, or folder of images with region files NAME.reg.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the detector.")] = Path("runs/boxes"),
    init: Annotated[
        str, typer.Option(help="Box detector to start from: folder, run id, models:/NAME@ALIAS or bundled.")
    ] = "bundled",
    epochs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Passes over the tiles.",
            default_factory=DefaultOf("models.boxes.settings:BoxTrainingSettings.epochs"),
        ),
    ] = ...,  # type: ignore[assignment]
    seed: Annotated[int, typer.Option(min=0, help="Order and turns of the tiles.")] = 1,
    no_turns: Annotated[
        bool, typer.Option("--no-turns", help="Mirror tiles and never turn them: rows and columns differ.")
    ] = False,
    force: Force = False,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train a box detector on labelled images, and judge it field by field on what it did not learn from."""
    from shutterless.workflows.commands.experiments import make_room_for_model

    make_room_for_model(out, force=force)
    uri = choose_tracking(tracking)
    from shutterless.models.boxes.settings import BoxTrainingSettings
    from shutterless.workflows.boxes.train import RECALL, box_model_folder, train_boxes
    from shutterless.workflows.tracking.tracking import open_tracking

    result = train_boxes(
        labels, out=out, init=box_model_folder(init), tracking=open_tracking(uri), progress=make_progress(quiet),
        settings=BoxTrainingSettings(epochs=epochs, seed=seed, turn=not no_turns),
    )  # fmt: skip
    for kind, one in result.judged.items():
        precision = one.precision_at(RECALL)
        typer.echo(f"{kind}: precision {precision:.0%} at {RECALL:.0%} of {one.n_true} boxes, each field held out")
    typer.echo(f"detector: {out}")
    suggest(("boxes", "find", "FILES", "--model", out), quiet=quiet)
    return list_failures(result.failures)


@command
def boxes_find(
    files: Annotated[list[Path], typer.Argument(help="Two-dimensional FITS images.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="Box detector: folder, run id, models:/NAME@ALIAS or bundled.")
    ] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for the table, the regions and the sheet.")] = Path("runs/found"),
    least_score: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Smallest probability of a box.",
            default_factory=DefaultOf("models.boxes.settings:LEAST_SHOWN_SCORE"),
        ),
    ] = ...,  # type: ignore[assignment]
    kind: Annotated[
        list[str] | None, typer.Option(help="Kind to keep; repeatable. Default: all.", show_default=False)
    ] = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Find boxes in two-dimensional FITS images, and write a table, DS9 regions and a sheet of pictures."""
    choose_tracking(tracking)
    from shutterless.workflows.boxes.find import find_in_files
    from shutterless.workflows.boxes.train import box_model_folder

    result = find_in_files(
        files, model=box_model_folder(model), out=out, least_score=least_score, kinds=kind or (),
        progress=make_progress(quiet),
    )  # fmt: skip
    for note in result.notes:
        typer.echo(f"warning: {note}", err=True)
    counts = ", ".join(f"{n} {name}" for name, n in result.boxes["kind"].value_counts().items()) or "nothing"
    typer.echo(f"{counts} in {len(files) - len(result.failures)} images: {out}")
    return list_failures(result.failures)


@command
def boxes_label(
    images: Annotated[list[Path], typer.Argument(help="Two-dimensional FITS images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the labels, also of those to go on with.")] = Path("runs/labels"),
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of an object; repeatable. Default: echo, trail, ghost and artefact.", show_default=False
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page on this machine; 0 takes a free one.")] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Draw boxes on images in a browser, name and grade them; they are kept as COCO JSON and DS9 regions."""
    from shutterless.workflows.boxes.desk import COCO_NAME
    from shutterless.workflows.boxes.label import USUAL_KINDS, label_images

    label_images(images, out=out, announce=typer.echo, kinds=kind or USUAL_KINDS, port=port)
    suggest(("boxes", "train", out / COCO_NAME), quiet=quiet)
    return DONE
