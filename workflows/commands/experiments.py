"""The quickstart, and commands that make and judge models: run, train, tune, evaluate, compare, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shutterless.workflows.commands.application import command
from shutterless.workflows.commands.console import DONE, choose_tracking, make_progress
from shutterless.workflows.commands.guide import suggest
from shutterless.workflows.commands.options import (
    MODEL_HELP,
    Config,
    Debug,
    FamilyOption,
    Force,
    NoDask,
    Quiet,
    Resume,
    Scheduler,
    Set,
    Store,
    TrackingOption,
    Workers,
)


@command
def run(
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the run makes.")] = Path("runs/quickstart"),
    set_: Set = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    no_dask: NoDask = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Run the whole quickstart: simulate, ingest, train, evaluate, compare, register, search, report."""
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(config, set_ or ())  # finds a misspelt key before heavy imports
    from shutterless.workflows.quickstart import run_quickstart

    progress = make_progress(quiet)
    report = run_quickstart(settings, out, workers=workers, scheduler=scheduler, no_dask=no_dask, progress=progress)
    typer.echo(f"report: {report}")
    models = f"sqlite:///{out / 'mlflow.db'}"
    suggest("open the report in a browser", ("search", "FILES", "--model", "models:/shutterless@champion",
            "--tracking", models), quiet=quiet)  # fmt: skip
    return DONE


@command
def pretrain(
    store: Store,
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder of the pretrained encoder.")] = Path("runs/pretrained"),
    set_: Set = None,
    resume: Resume = False,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Pretrain the transformer's encoder on a store without labels, for `train --init`."""
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(config, set_ or ())
    uri = choose_tracking(tracking)
    from shutterless.workflows.tracking.tracking import open_tracking
    from shutterless.workflows.training.pretrain import pretrain_model

    summary = pretrain_model(
        store, settings=settings.pretrain, train=settings.train_for("transformer"), out=out, resume=resume,
        tracking=open_tracking(uri), progress=make_progress(quiet),
    )  # fmt: skip
    for source, ratio in summary["validation_ratio"].items():
        typer.echo(f"{source}: validation error {ratio:.4f} of that of predicting 0")
    typer.echo(f"pretrained encoder: {out}")
    suggest(("train", store, "--init", out), quiet=quiet)
    return DONE


@command
def train(
    store: Store,
    model: Annotated[FamilyOption, typer.Option(help="Family of the model.")] = FamilyOption.TRANSFORMER,
    config: Config = None,
    init: Annotated[
        str | None,
        typer.Option(help=f"Start from this model; default: random weights. {MODEL_HELP}", show_default=False),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labels of `shutterless vet` to learn from, too; repeatable. Default: none.", show_default=False
        ),
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option(
            "--suspects", help="List labels that are probably wrong, by ten more trainings (train.label_folds)."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the model; default: runs/MODEL.", show_default=False)
    ] = None,
    set_: Set = None,
    force: Force = False,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train one model on the strips of a store."""
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(config, set_ or ())
    out = out or Path("runs") / model
    make_room_for_model(out, force=force)
    if suspects and not labels:
        raise typer.BadParameter("--suspects looks for wrong labels of people; give them by --labels")
    if model in (FamilyOption.FOREST, FamilyOption.COMBINED):
        if init:
            raise typer.BadParameter(f"a {model} detector starts from no other model; train it without --init")
        if labels:
            raise typer.BadParameter(f"a {model} detector takes no --labels; a transformer, a CNN or an MLP does")
        if model == FamilyOption.FOREST:
            from shutterless.workflows.training.forest import train_forest

            train_forest(store, settings=settings.forest, out=out, progress=make_progress(quiet))
        else:
            from shutterless.workflows.training.combined import train_combined

            train_combined(
                store, forest_settings=settings.forest, settings=settings.combined, grid=settings.train.grid, out=out,
                progress=make_progress(quiet),
            )  # fmt: skip
        return _conclude_training(out, quiet)
    own = settings.train_for(model)
    uri = choose_tracking(tracking)
    from shutterless.workflows.tracking.tracking import open_tracking, resolve_model
    from shutterless.workflows.training.train import train_model

    start = resolve_model(init) if init else None
    train_model(
        store, family=str(model), settings=own, out=out, init=start, labels=labels or (), suspects=suspects,
        tracking=open_tracking(uri), progress=make_progress(quiet),
    )  # fmt: skip
    if suspects:
        suggest(("vet", "SEARCH", "--only", out / "suspects.csv"), quiet=quiet)
    return _conclude_training(out, quiet)


def _conclude_training(out: Path, quiet: bool) -> int:
    typer.echo(f"model: {out}")
    suggest(("evaluate", "STORE", "--model", out, "--model", "template-bank"), ("search", "FILES", "--model", out),
            quiet=quiet)  # fmt: skip
    return DONE


def make_room_for_model(out: Path, *, force: bool) -> None:
    """Refuse a folder with a finished model, or remove that; other files stay.

    Raises
    ------
    ValueError
        If it holds one, and ``force`` is not set.
    """
    if not (out / "training.json").is_file():
        return
    if not force:
        raise ValueError(f"{out} already holds a trained model; choose another --out, or replace it with --force")
    for name in ("training.json", "rates.json", "history.parquet", "model.safetensors", "config.json"):
        (out / name).unlink(missing_ok=True)


@command
def tune(
    store: Store,
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder; a sweep that was stopped there goes on.")] = Path("runs/tune"),
    set_: Set = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Search the hyperparameters of every model family, with the same budget for each."""
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(config, set_ or ())
    uri = choose_tracking(tracking)
    from shutterless.workflows.tracking.tracking import open_tracking
    from shutterless.workflows.training.sweeps.tune import tune_families

    track = open_tracking(uri)
    result = tune_families(store, settings=settings, out=out, tracking=track, progress=make_progress(quiet))
    typer.echo(result.text())
    typer.echo(f"sweep: {out} (tracked runs: sweep = {result.sweep})")
    suggest(("evaluate", "STORE", "--model", out / str(settings.tune.families[0])), quiet=quiet)
    return DONE


@command
def evaluate(
    store: Store,
    model: Annotated[
        list[str] | None, typer.Option(help=f"{MODEL_HELP} Repeatable; default: bundled and template-bank.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Truth table; default: the one beside the simulated frames.", show_default=False)
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="Judge by what people vetted, with `shutterless vet`, instead of a truth table; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("runs/evaluation"),
    config: Config = None,
    set_: Set = None,
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Measure completeness, false alarms and loss of one or several detectors."""
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(config, set_ or ()).evaluate
    uri = choose_tracking(tracking)
    references = model or ["bundled", "template-bank"]
    if labels:
        if truth is not None:
            raise typer.BadParameter("--truth and --labels are two evaluations; give one of them")
        from shutterless.workflows.vetting.detectors import evaluate_on_labels

        judged = evaluate_on_labels(store, labels, references=references, out=out, progress=make_progress(quiet))
        typer.echo(judged.text())
        typer.echo(f"evaluation: {out}")
        return DONE
    from shutterless.workflows.comparison.evaluate import evaluate_detectors
    from shutterless.workflows.frames.ingest import find_truth
    from shutterless.workflows.tracking.tracking import open_tracking

    evaluation = evaluate_detectors(
        store, references=references, truth=truth or find_truth(store), out=out,
        settings=settings, tracking=open_tracking(uri), progress=make_progress(quiet),
    )  # fmt: skip
    typer.echo(evaluation.text())
    typer.echo(f"evaluation: {out}")
    suggest(("compare", "--experiment", "evaluate"), ("register", "MODEL", "--evaluation", out), quiet=quiet)
    return DONE


@command
def compare(
    experiment: Annotated[
        list[str] | None,
        typer.Option(help="Name of a tracked experiment. Repeatable; default: quickstart.", show_default=False),
    ] = None,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            help="Only these runs, in MLflow's syntax: \"metrics.completeness > 0.5 and params.arch.family = 'cnn'\".",
            show_default=False,
        ),
    ] = "",
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only runs with this tag. Repeatable.", show_default=False),
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric that judges the models.")] = "completeness",
    out: Annotated[Path, typer.Option(help="Folder for the table and report.")] = Path("runs/comparison"),
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compare tracked runs, and choose a model: the best, or the simplest that is not worse."""
    uri = choose_tracking(tracking)
    from shutterless.workflows.comparison.compare import compare_runs

    comparison = compare_runs(
        tracking_uri=uri, experiment=experiment or ["quickstart"], metric=metric, out=out, where=filter_, tags=tag or ()
    )
    typer.echo(comparison.text())
    typer.echo(f"comparison: {out / 'comparison.html'}")
    suggest("open the page in a browser", ("register", "MODEL"), quiet=quiet)
    return DONE


@command
def describe(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "bundled",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Instead of a saved model, the default, an MLP of these layer sizes, e.g. 3-4-3-1.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Task of that MLP: binary, multiclass or regression.")] = "binary",
    tracking: TrackingOption = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show the layers, shapes, parameters, heads and hyperparameters of a model."""
    if layers is not None:
        from shutterless.models.describe import describe_mlp
        from shutterless.models.mlp import parse_sizes

        typer.echo(describe_mlp(parse_sizes(layers), task))
        suggest(("train", "STORE", "--model", "mlp", "--set", "mlp.hidden_sizes=[4, 3]"), quiet=quiet)
        return DONE
    choose_tracking(tracking)
    after = "search", "FILES", "--model", model
    from shutterless.workflows.tracking.tracking import resolve_model

    folder = resolve_model(model)
    if folder is None:
        typer.echo("template-bank: no weights; PSF filter in x, box, Gaussian and flare shapes in time, with vetoes")
        suggest(after, quiet=quiet)
        return DONE
    from shutterless.models.forest.forest import is_combined, is_forest, load_forest

    if is_forest(folder):
        typer.echo(f"forest in {folder}\n\n{load_forest(folder).describe()}")
        suggest(after, quiet=quiet)
        return DONE
    if is_combined(folder):
        from shutterless.models.combined.combined import load_combined

        typer.echo(f"forest and networks in {folder}\n\n{load_combined(folder).describe()}")
        suggest(after, quiet=quiet)
        return DONE
    from shutterless.models.describe import count_parameters, describe_detector
    from shutterless.models.families import family_of, load_model
    from shutterless.workflows.tracking.logged_model import finds_boxes

    if finds_boxes(folder):
        from shutterless.models.boxes.saved import load_boxes

        boxes = load_boxes(folder)
        kinds = ", ".join(boxes.config.kinds or ())
        typer.echo(f"detector of boxes in {folder}: {kinds}; {count_parameters(boxes):,} parameters\n\n{boxes}")
        suggest(("boxes", "find", "FILES", "--model", model), quiet=quiet)
        return DONE
    loaded = load_model(folder)
    typer.echo(f"{family_of(loaded)} in {folder}: {count_parameters(loaded):,} parameters\n")
    typer.echo(describe_detector(loaded))
    suggest(after, quiet=quiet)
    return DONE
