"""Pretraining on a store: strips of every kind, a folder from which training starts, and resumed runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from shutterless.models.pretraining.masked_patches import PretrainedError, load_masked_model
from shutterless.pipeline.detection import vetoes
from shutterless.pipeline.settings import SettingsError, plain_values
from shutterless.pipeline.store.store import manifest_hash, open_amplifier, read_manifest, write_manifest
from shutterless.pipeline.tokens import GridError, TokenGrid
from shutterless.workflows import cli
from shutterless.workflows.settings.settings import PretrainSettings, load_settings
from shutterless.workflows.tracking.tracking import fetch_runs
from shutterless.workflows.training import pretrain, unlabelled
from shutterless.workflows.training.pretrain import PretrainError, pretrain_model
from shutterless.workflows.training.train import TrainError, train_model
from shutterless.workflows.training.unlabelled import UnlabelledError, draw_places, draw_unlabelled

from ..conftest import ARCHITECTURES, GRID

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = PretrainSettings(seed=3, epochs=2, batch_size=16, n_strips=96, learning_rate=3e-3)


@pytest.fixture
def train(train_settings):
    return replace(train_settings, architecture=ARCHITECTURES["transformer"])


@pytest.fixture(scope="module")
def pretrained(training_store, tmp_path_factory):
    from shutterless.workflows.settings.settings import TrainSettings

    folder = tmp_path_factory.mktemp("pretrained") / "encoder"
    train = TrainSettings(grid=TokenGrid(**GRID), architecture=ARCHITECTURES["transformer"])
    return folder, pretrain_model(training_store, settings=SETTINGS, train=train, out=folder)


def test_strips_are_cut_at_triggers_at_stars_and_anywhere(training_store, train):
    amplifier = open_amplifier(training_store, read_manifest(training_store)["entry"].iloc[0])
    grid = TokenGrid(**GRID)
    settings = PretrainSettings(trigger_share=0.3, streak_share=0.4)
    places = draw_places(amplifier, grid, np.random.default_rng(1), 200, settings)
    counts = places["source"].value_counts()
    assert len(places) == 200
    assert counts["streak"] == 80
    n_triggers = len(places) - counts["streak"] - counts["random"]
    assert 0 < n_triggers <= 60
    assert set(places["source"]) <= {"random", "streak", "trigger", "cosmic_ray", "pickup", "edge", "flanks"}
    free = places[places["source"].isin(["random", "streak"])]
    half = free["bin"] * grid.n_rows // 2
    assert (free["row"] >= half).all()
    assert (free["row"] + half <= amplifier.n_rows).all()
    assert set(free["bin"]) == set(grid.bins)
    stars = places[places["source"] == "streak"]
    distance = np.abs(stars["x"].to_numpy()[:, None] - amplifier.star_places[:, 1]).min(axis=1)
    assert distance.max() <= (grid.n_columns - 1) / 4


@pytest.mark.parametrize(("kind", "source"), [("trap", "trap"), ("noise", "made up")])
def test_a_veto_that_is_added_names_the_source_of_its_strips(training_store, monkeypatch, kind, source):
    """By the kind that the veto stands for, and by the veto's name if that kind is noise."""
    amplifier = open_amplifier(training_store, read_manifest(training_store)["entry"].iloc[0])
    settings = PretrainSettings(trigger_share=0.5, streak_share=0)
    made_up = vetoes.Veto("made up", "all have it", "always", "nothing", kind, lambda t, _: t["snr"].abs() > 0)
    monkeypatch.setattr(vetoes, "VETOES", (made_up, *vetoes.VETOES))
    places = draw_places(amplifier, TokenGrid(**GRID), np.random.default_rng(1), 40, settings)
    assert set(places["source"]) == {"random", source}


def test_flanks_of_the_other_sign_are_no_edge(monkeypatch):
    monkeypatch.setattr(vetoes, "VETOES", [veto for veto in vetoes.VETOES if veto.name in ("edge", "flanks")])
    assert unlabelled._sources_by_veto() == {"": "trigger", "edge": "edge", "flanks": "flanks"}


def test_only_binning_factors_that_fit_are_drawn(training_store):
    amplifier = open_amplifier(training_store, read_manifest(training_store)["entry"].iloc[0])
    short = amplifier.between(0, 128)
    settings = PretrainSettings(trigger_share=0, streak_share=0)
    places = draw_places(short, TokenGrid(**GRID), np.random.default_rng(1), 50, settings)
    assert set(places["bin"]) == {1}
    assert set(draw_places(short, TokenGrid(), np.random.default_rng(1), 5, settings)["row"]) == {128}


def test_drawn_strips_know_nothing_of_stage_1_but_their_binning(training_store, train):
    drawn = draw_unlabelled(training_store, SETTINGS, train)
    grid = TokenGrid(**GRID)
    assert drawn.strips.patches.shape[1:] == (grid.n_tokens, grid.patch_size)
    assert len(drawn.sources) == len(drawn.strips) == len(drawn.for_validation)
    assert (drawn.strips.mask.sum(axis=1) >= 2).all()
    seen = np.flatnonzero(drawn.strips.features.any(axis=0)).tolist()
    assert seen == [2, 3]  # width and binning factor; the width follows from the binning factor
    again = draw_unlabelled(training_store, SETTINGS, train)
    np.testing.assert_array_equal(drawn.strips.patches, again.strips.patches)


def test_validation_is_on_a_field_of_its_own_or_on_the_last_rows(training_store, train, monkeypatch):
    drawn = draw_unlabelled(training_store, SETTINGS, train)
    items = []

    def note(item, **_):
        items.append(item)
        return drawn.strips, drawn.sources, drawn.grid

    monkeypatch.setattr(unlabelled, "_draw_from_entry", note)
    draw_unlabelled(training_store, SETTINGS, train)
    assert [item.for_validation for item in items].count(True) == 1
    assert {(item.view.rows, item.n_strips) for item in items} == {(None, 24)}
    items.clear()
    one_field = read_manifest(training_store)[:1]
    monkeypatch.setattr(unlabelled, "read_manifest", lambda _: one_field)
    draw_unlabelled(training_store, SETTINGS, train)
    assert [(item.view.rows, item.for_validation) for item in items] == [((0, 3200), False), ((3200, 4000), True)]
    assert [item.n_strips for item in items] == [77, 19]


def test_pretraining_leaves_the_encoder_its_history_and_what_it_was_made_from(pretrained, training_store):
    folder, summary = pretrained
    names = {"README.md", "config.json", "model.safetensors", "history.parquet", "pretraining.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "pretraining.json").read_text()) == summary
    assert summary["manifest_hash"] == manifest_hash(read_manifest(training_store))
    assert summary["settings"] == plain_values(SETTINGS)
    assert summary["n_strips"] + summary["n_validation_strips"] == sum(summary["n_by_source"].values())
    history = pd.read_parquet(folder / "history.parquet")
    best = history.query("split == 'validation' and source == 'all' and epoch == @summary['best_epoch']")
    assert summary["validation_ratio"]["all"] == best["ratio"].item()
    assert load_masked_model(folder).grid == TokenGrid(**GRID)


def test_training_starts_from_the_encoder(pretrained, training_store, train, tmp_path):
    """A vanishing rate keeps the first weights: encoder and embeddings are those of the pretraining."""
    still = replace(train, learning_rate=1e-12, n_examples=40)
    train_model(training_store, family="transformer", settings=still, out=tmp_path / "tuned", init=pretrained[0])
    found, source = (load_file(folder / "model.safetensors") for folder in (tmp_path / "tuned", pretrained[0]))
    shared = [name for name in found if name.startswith(("embed_", "encoder."))]
    assert len(shared) > 10
    for name in shared:
        torch.testing.assert_close(found[name], source[name], atol=1e-9, rtol=0)


def test_training_of_something_else_is_refused_with_both(pretrained, training_store, train, tmp_path):
    def start(family="transformer", **changes):
        settings = replace(train, n_examples=40, **changes)
        train_model(training_store, family=family, settings=settings, out=tmp_path / "refused", init=pretrained[0])

    with pytest.raises(TrainError, match="encoder is the pretrained encoder of a transformer, not of a mlp"):
        start("mlp", architecture={"hidden_sizes": []})
    with pytest.raises(PretrainedError, match=r"with \{'hidden_size': 16\}, but .* has \{'hidden_size': 8\}"):
        start(architecture={**ARCHITECTURES["transformer"], "hidden_size": 8})
    with pytest.raises(GridError, match=r"encoder has .*n_rows=64.*but the model expects .*n_rows=128"):
        start(grid=TokenGrid(**{**GRID, "n_rows": 128}))


def test_interrupted_run_is_gone_on_with_resume_alone(
    pretrained, training_store, train, tmp_path, monkeypatch, tracking
):
    """Killed in the second epoch, it ends with the weights of an undisturbed run, and its curve is complete."""
    options = {"settings": SETTINGS, "train": train, "out": tmp_path / "resumed"}

    def killed(*args, on_rows, **kwargs):
        def stop(rows):
            if rows[0]["epoch"] == 2:
                raise KeyboardInterrupt

        return learn(*args, on_rows=stop, **kwargs)

    learn = pretrain.fit_masked_model
    monkeypatch.setattr(pretrain, "fit_masked_model", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain_model(training_store, **options)
    monkeypatch.setattr(pretrain, "fit_masked_model", learn)
    with pytest.raises(PretrainError, match=r"holds an unfinished pretraining; go on with --resume, remove .*checkp"):
        pretrain_model(training_store, **options)
    pretrain_model(training_store, resume=True, tracking=tracking, **options)
    whole, resumed = (folder / "model.safetensors" for folder in (pretrained[0], tmp_path / "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert not (tmp_path / "resumed" / "checkpoint.safetensors").exists()
    (run,) = fetch_runs(tracking, "pretrain").query("name == 'resumed'").to_dict("records")
    import mlflow

    logged = mlflow.MlflowClient(tracking.uri).get_metric_history(run["run_id"], "validation.ratio")
    history = pd.read_parquet(tmp_path / "resumed" / "history.parquet")
    expected = history.query("split == 'validation' and source == 'all'")
    assert {metric.step: metric.value for metric in logged} == dict(
        zip(expected["step"], expected["ratio"], strict=True)
    )


def test_finished_pretraining_is_not_done_again(pretrained, training_store, train, monkeypatch):
    folder, summary = pretrained
    options = {"train": train, "out": folder, "resume": True}
    monkeypatch.setattr(pretrain, "draw_unlabelled", None)  # a finished pretraining needs no strips
    assert pretrain_model(training_store, settings=SETTINGS, **options) == summary
    with pytest.raises(PretrainError, match=r"was pretrained with .*'epochs': 2.* now .*'epochs': 3"):
        pretrain_model(training_store, settings=replace(SETTINGS, epochs=3), **options)


def test_store_that_no_strips_can_be_cut_from_is_named(training_store, train, tmp_path):
    write_manifest(tmp_path, [])
    with pytest.raises(UnlabelledError, match=r"store .* holds no amplifier; see its failures\.parquet"):
        draw_unlabelled(tmp_path, SETTINGS, train)
    write_manifest(tmp_path, read_manifest(training_store).to_dict("records"))
    with pytest.raises(UnlabelledError, match=r"no strips from .*/quiet_c01_000_c01_q1: StoreError: .*ingest it again"):
        draw_unlabelled(tmp_path, SETTINGS, train)


def test_stacks_of_different_grids_are_not_mixed(training_store, train, monkeypatch):
    grids = iter([TokenGrid(), *[TokenGrid(n_columns=8)] * 3])
    drawn = draw_unlabelled(training_store, SETTINGS, train)
    monkeypatch.setattr(unlabelled, "_draw_from_entry", lambda *_, **__: (drawn.strips, drawn.sources, next(grids)))
    with pytest.raises(UnlabelledError, match=r"stacks for different grids .*n_columns=16.*pretrain on one kind alone"):
        draw_unlabelled(training_store, SETTINGS, train)


def test_tracked_pretraining_has_its_curve(training_store, train, tmp_path, tracking):
    settings = replace(SETTINGS, epochs=1, n_strips=40)
    pretrain_model(training_store, settings=settings, train=train, out=tmp_path / "followed", tracking=tracking)
    (run,) = fetch_runs(tracking, "pretrain").query("name == 'followed'").to_dict("records")
    expected = {"arch.hidden_size": "16", "train.mask_share": "0.5", "train.seed": "3", "data.seed": "3"}
    expected["data.manifest_hash"] = manifest_hash(read_manifest(training_store))
    assert {name: run[f"params.{name}"] for name in expected} == expected
    history = pd.read_parquet(tmp_path / "followed" / "history.parquet").set_index(["split", "source"])
    assert run["metrics.validation.ratio"] == history.loc[("validation", "all"), "ratio"]
    assert run["metrics.train.loss"] == history.loc[("train", "all"), "loss"]
    assert run["metrics.validation.ratio.streak"] == history.loc[("validation", "streak"), "ratio"]
    assert run["metrics.best_epoch"] == 1


def test_shares_are_checked():
    with pytest.raises(SettingsError, match=r"\[pretrain\]: trigger_share 0\.8 and streak_share 0\.3 exceed 1"):
        load_settings(overrides=["pretrain.trigger_share=0.8"])
    with pytest.raises(SettingsError, match=r"\[pretrain\] mask_shar: unknown key; did you mean 'mask_share'\?"):
        load_settings(overrides=["pretrain.mask_shar=0.8"])


def test_command_prints_the_ratio_of_every_source(training_store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    summary = {"validation_ratio": {"all": 0.98765, "streak": 0.9}}
    calls = []
    monkeypatch.setattr(pretrain, "pretrain_model", lambda *args, **options: calls.append((args, options)) or summary)
    monkeypatch.setattr("shutterless.workflows.tracking.tracking.open_tracking", lambda uri: uri)
    arguments = [
        "pretrain",
        str(training_store),
        "--out",
        str(tmp_path / "p"),
        "--set",
        "pretrain.epochs=7",
        "--resume",
    ]
    result = CliRunner().invoke(cli.app, [*arguments, "--set", "transformer.n_layers=2", "-q"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "all: validation error 0.9877 of that of predicting 0",
        "streak: validation error 0.9000 of that of predicting 0",
        f"pretrained encoder: {tmp_path / 'p'}",
    ]
    ((store,), options) = calls[0]
    assert (str(store), options["resume"]) == (str(training_store), True)
    assert options["settings"].epochs == 7
    assert options["train"].architecture == {"n_layers": 2}
