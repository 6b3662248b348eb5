"""Commands as a user types them: their output, their refusals and their exit codes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from types import SimpleNamespace

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.workflows import cli
from shutterless.workflows.commands import console
from shutterless.workflows.commands.experiments import make_room_for_model
from shutterless.workflows.commands.options import DefaultOf
from shutterless.workflows.searching.frame_rates import FrameRates

COMMANDS = (
    "run",
    "simulate",
    "inject",
    "check",
    "ingest",
    "pretrain",
    "train",
    "tune",
    "evaluate",
    "compare",
    "describe",
)
COMMANDS += (
    "search",
    "watch",
    "compare-searches",
    "recurrences",
    "limits",
    "export",
    "lightcurve",
    "report",
    "vet",
    "boxes label",
    "boxes train",
    "boxes find",
    "register",
    "promote",
    "rollback",
    "history",
    "serve",
)
HEAVY = (
    "numpy",
    "torch",
    "mlflow",
    "dask",
    "distributed",
    "pandas",
    "astropy",
    "scipy",
    "numba",
    "transformers",
    "pydantic",
    "jinja2",
)


@pytest.fixture(autouse=True)
def own_tracking_store(monkeypatch, tmp_path):
    """Commands choose a tracking store through the environment; undo that after each test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def stand_in(monkeypatch):
    """Replace a workflow module by a recorder, so that only the command itself is tested."""

    def install(module, function, result=None):
        calls = []
        recorder = SimpleNamespace(**{function: lambda *args, **options: calls.append((args, options)) or result})
        monkeypatch.setitem(sys.modules, f"shutterless.workflows.{module}", recorder)
        return calls

    return install


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    result = call("simulate", "--out", folder, "--rows", 300, "--events", 1, "--set", "n_bright_stars=20", "--no-dask")
    assert result.exit_code == 0, result.output
    assert "1 files and truth.parquet in" in result.stdout
    return sorted(folder.glob("*.fits.fz"))


def test_commands_are_those_of_the_documentation_and_each_has_help():
    group = typer.main.get_command(cli.app)
    assert tuple(group.list_commands(None)) == COMMANDS
    for name, command in group.commands.items():
        assert command.help, name
        assert all(parameter.help for parameter in command.params if parameter.name != "help"), name
        assert {"quiet", "debug"} <= {parameter.name for parameter in command.params}, name


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom shutterless.workflows.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage: " in done.stdout


def test_defaults_of_a_scene_stand_in_its_settings_alone():
    command = typer.main.get_command(cli.app).commands["simulate"]
    scene = [
        parameter for parameter in command.params if parameter.name in {field.name for field in fields(SceneSettings)}
    ]
    assert len(scene) == 11
    assert all(isinstance(parameter.default, DefaultOf) for parameter in scene)
    chosen = command.make_context("simulate", ["--out", "frames"]).params
    given = {parameter.name: chosen[parameter.name] for parameter in scene}
    assert SceneSettings(**{**given, "ccds": console.parse_numbers(given["ccds"])}) == SceneSettings()
    page = call("simulate", "--help").stdout
    assert f"[default: {SceneSettings.rows}]" in page
    assert "[default: no-detector]" in page


def test_version_is_that_of_the_package():
    assert call("--version").stdout == f"shutterless {version('shutterless')}\n"


def test_simulate_then_ingest_then_ingest_again(frames, tmp_path):
    result = call("ingest", *frames, "--out", tmp_path / "store", "--no-dask")
    assert (result.exit_code, result.stdout) == (0, f"4 amplifiers in {tmp_path / 'store'}\n")
    assert "instrument: ztf" in result.stderr
    again = call("ingest", *frames, "--out", tmp_path / "store", "--no-dask")
    assert again.exit_code == 2
    assert again.stderr.startswith("error: ")
    assert "--resume" in again.stderr
    assert call("ingest", *frames, "--out", tmp_path / "store", "--no-dask", "--resume", "-q").stderr == ""


def test_some_failed_files_are_listed_and_exit_with_one(frames, tmp_path):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"SIMPLE")
    result = call("ingest", frames[0], bad, "--out", tmp_path / "store", "--no-dask", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"1 failed:\n  {bad}: FrameError: ")
    assert "4 amplifiers" in result.stdout


def test_dry_run_of_ingest_says_everything_and_writes_nothing(frames, tmp_path):
    result = call(
        "ingest", frames[0], tmp_path / "absent.fits", "--out", tmp_path / "store", "--dry-run", "--workers", 2
    )
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "would read 1 files, 4 amplifiers, 4 Mpix (instrument: ztf)"
    assert lines[1] == f"would write about 7.8 MB to {tmp_path / 'store'}"
    assert lines[2].startswith("would take about 14 s with 2 workers (")
    assert "1 cannot be read:" in result.stderr
    assert "absent.fits does not exist" in result.stderr
    assert not (tmp_path / "store").exists()


def test_dry_run_of_search_names_the_tables(frames, tmp_path):
    result = call("search", frames[0], "--out", tmp_path / "found", "--dry-run")
    assert result.exit_code == 0
    assert f"would write candidates.parquet and candidates.ecsv to {tmp_path / 'found'}" in result.stdout
    assert not (tmp_path / "found").exists()


def test_overlapping_files_are_warned_of(frames, tmp_path):
    twin = shutil.copy(frames[0], tmp_path / "twin.fits.fz")
    result = call("ingest", frames[0], twin, "--out", tmp_path / "store", "--dry-run")
    assert "warning: " in result.stderr
    assert "both hold rows 0 to 299" in result.stderr


def test_header_values_given_by_set_reach_the_reader(frames, tmp_path):
    result = call("ingest", frames[0], "--out", tmp_path / "store", "--dry-run", "--set", "ROWRAET=300")
    assert result.exit_code == 1
    assert "--set ROWRAET: profile ztf has no such keyword" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set", "train.epoch=2"], "error: --set: [train] epoch: unknown key; did you mean 'epochs'?"),
        (["run", "--config", "absent.toml"], "error: configuration absent.toml cannot be read: No such file"),
        (["ingest", "a.fits", "--out", "x", "--no-dask", "--workers", "2"], "error: --no-dask runs in one process"),
        (["ingest", "a.fits", "--out", "x", "--set", "ROWRATE"], "error: --set ROWRATE: expected KEY=VALUE"),
        (["simulate", "--out", "x", "--ccds", "1-x"], "error: --ccds '1-x': expected numbers such as 1,3 or 1-4"),
        (["simulate", "--out", "x", "--rows", "0"], "error: scene: [rows] = 0: input should be greater than"),
        (["describe", "typo"], "error: no model 'typo': it is neither a folder"),
        (["train", "store", "--model", "transfromer"], "'transfromer' is not one of"),
        (["ingest", "--out", "x"], "Missing argument"),
        (["serach"], "No such command 'serach'"),
    ],
)
def test_bad_usage_is_explained_without_a_traceback(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback():
    result = call("describe", "typo", "--debug")
    assert type(result.exception).__name__ == "TrackingError"


def test_user_error_of_the_console_script_is_one_line():
    script = [sys.executable, "-m", "shutterless.workflows.cli", "report", "absent"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_run_passes_settings_folder_and_cluster_options(stand_in, tmp_path):
    calls = stand_in("quickstart", "run_quickstart", tmp_path / "report.html")
    result = call("run", "--out", tmp_path, "--set", "train.epochs=2", "--no-dask", "-q")
    assert (result.exit_code, result.stdout) == (0, f"report: {tmp_path / 'report.html'}\n")
    ((settings, out), options) = calls[0]
    assert (settings.train.epochs, out) == (2, tmp_path)
    assert {**options, "progress": None} == {"workers": None, "scheduler": None, "no_dask": True, "progress": None}


def test_train_passes_the_family_with_its_architecture(stand_in, tmp_path):
    calls = stand_in("training.train", "train_model")
    result = call("train", tmp_path, "--model", "cnn", "--set", "cnn.width=5", "--out", tmp_path / "cnn")
    assert result.exit_code == 0, result.output
    ((store,), options) = calls[0]
    assert (store, options["family"], options["init"]) == (tmp_path, "cnn", None)
    assert options["settings"].architecture == {"width": 5}


def test_evaluate_passes_every_reference(stand_in, tmp_path):
    calls = stand_in("comparison.evaluate", "evaluate_detectors", SimpleNamespace(text=lambda: "table and verdict"))
    result = call("evaluate", tmp_path, "--model", "a", "--model", "template-bank", "--truth", tmp_path / "t.parquet")
    assert result.exit_code == 0, result.output
    assert calls[0][1]["references"] == ["a", "template-bank"]
    assert "table and verdict" in result.stdout


def test_compare_passes_the_tracking_store(stand_in, tmp_path):
    calls = stand_in("comparison.compare", "compare_runs", SimpleNamespace(text=lambda: "table and verdict"))
    chosen = ("--experiment", "train", "--experiment", "evaluate", "--filter", "metrics.auc > 0.5", "--tag", "a=b")
    result = call("compare", "--metric", "loss", "--tracking", tmp_path / "other", *chosen)
    assert result.exit_code == 0, result.output
    assert "table and verdict" in result.stdout
    options = calls[0][1]
    assert options["tracking_uri"] == f"sqlite:///{tmp_path}/other/mlflow.db"
    assert (options["experiment"], options["where"], options["tags"]) == (
        ["train", "evaluate"], "metrics.auc > 0.5", ["a=b"],
    )  # fmt: skip


def test_search_prints_candidates_and_lists_failures(stand_in, tmp_path):
    failures = pd.DataFrame(
        {"path": ["a.fits", "b.fits"], "quadrant": pd.array([None, 2], "Int64"), "reason": ["x", "y"]}
    )
    found = SimpleNamespace(candidates=[1, 2, 3], failures=failures, instruments=("ztf",), warnings=("note",))
    found.rates, found.set_aside = FrameRates(3.0, {}, {}, {"a": 2.0}), ("80 triggers were vetoed",)
    found.positions = ""
    calls = stand_in("searching.search", "search_files", found)
    arguments = ("--out", tmp_path, "--false-alarms-per-hour", 3, "--no-dask", "--set", "ROWRATE=300")
    result = call("search", "a.fits", "b.fits", *arguments)
    assert (result.exit_code, result.stdout) == (1, f"80 triggers were vetoed\n3 candidates in {tmp_path}\n")
    asked, rest = result.stderr.split("\n", 1)
    assert asked.startswith("3 false alarms per amplifier-hour asked, 6 expected in 2 amplifier-hours, 3 candidates;")
    lines = ["instrument: ztf", "warning: note", "2 failed:", "  a.fits: x", "  b.fits, quadrant 2: y"]
    assert rest.splitlines() == [*lines, f"next: shutterless report {tmp_path}"]
    assert calls[0][1]["settings"].false_alarms_per_hour == 3
    assert calls[0][1]["supplied"] == {"ROWRATE": "300"}


def test_register_then_describe_by_alias(tmp_path):
    from shutterless.models.families import build_model

    model = build_model("mlp")
    model.save_pretrained(tmp_path / "mlp")
    result = call("register", tmp_path / "mlp", "--name", "detector", "--alias", "champion")
    assert (result.exit_code, result.stdout) == (0, "models:/detector@champion is version 1 of detector\n")
    described = call("describe", "models:/detector@champion")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"{n_parameters:,} parameters" in described.stdout.splitlines()[0]
    refused = call("register", "template-bank")
    assert refused.exit_code == 2
    assert "template-bank has no weights and cannot be registered" in refused.stderr


def test_template_bank_is_described_without_weights():
    assert call("describe", "template-bank").stdout.startswith("template-bank: no weights")


@pytest.mark.parametrize(("text", "numbers"), [("1", [1]), ("1,3", [1, 3]), ("2-4", [2, 3, 4]), ("1, 5-6", [1, 5, 6])])
def test_ccd_numbers(text, numbers):
    assert console.parse_numbers(text) == numbers


def test_long_lists_of_failures_are_cut(capsys):
    assert console.list_failures(f"file {index}" for index in range(105)) == console.SOME_FAILED
    assert capsys.readouterr().err.endswith("  file 99\n  … and 5 more\n")


def test_tracking_store_default_and_choice(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert console.choose_tracking(None) == f"sqlite:///{tmp_path}/mlflow.db"  # from the environment
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert console.choose_tracking(None) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert console.choose_tracking("http://localhost:5000") == "http://localhost:5000"


@pytest.mark.parametrize("address", ["localhost:5000", "127.0.0.1:5000/mlflow"])
def test_server_without_a_scheme_is_not_taken_for_a_folder(address):
    with pytest.raises(ValueError, match=rf"--tracking {address}: a server's address begins with http://"):
        console.choose_tracking(address)


def test_train_replaces_a_finished_model_only_with_force(tmp_path):
    """What a user put beside the model stays."""
    ours = ("training.json", "rates.json", "history.parquet", "model.safetensors", "config.json")
    for name in (*ours, "notes.txt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"already holds a trained model; .* or replace it with --force"):
        make_room_for_model(tmp_path, force=False)
    make_room_for_model(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    make_room_for_model(tmp_path, force=False)
