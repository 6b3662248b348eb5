"""A masked-patch model gets nothing of hidden patches, predicts structure but no noise, and is reproducible."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from shutterless.models.dataset import strips_to_tensors
from shutterless.models.families import build_model
from shutterless.models.inputs import RESIDUAL_SOFTNESS
from shutterless.models.pretraining.fit import PRETRAINING_COLUMNS, fit_masked_model, schedule_rate
from shutterless.models.pretraining.masked_patches import (
    ENCODER_PARTS,
    PretrainedError,
    build_masked_model,
    is_masked_model,
    live_pixels,
    load_masked_model,
    start_from_encoder,
)
from shutterless.models.pretraining.masking import draw_hidden, hidden_in_turn
from shutterless.models.pretraining.plots import PANELS, plot_pretraining, plot_reconstruction
from shutterless.models.pretraining.reconstruction import reconstruct
from shutterless.models.pretraining.settings import Masking, MaskingError, PretrainingError, PretrainingSettings
from shutterless.models.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from shutterless.pipeline.stored_files import StoredFileError
from shutterless.pipeline.tokens import STAGE1_FEATURES, GridError, TokenGrid, patchify

from ..conftest import GRID, random_strips

pytestmark = pytest.mark.usefixtures("one_thread")
ARCH = {"hidden_size": 32, "n_layers": 2, "n_heads": 2, "mlp_size": 48, "dropout": 0.1}
SHORT = PretrainingSettings(epochs=2, batch_size=16, device="cpu")
SINGLE = Masking(share=0.34, run_share=0)


def steady_strips(n, seed=0, amplitude=3.0):
    """Noise of 1σ on columns that are always bright or dark, so neighbours of a patch determine it."""
    rng = np.random.default_rng(seed)
    strips = random_strips(n, seed=seed)
    level = amplitude * rng.choice([-1.0, 1.0], (n, GRID.n_y, GRID.n_columns, 1))
    level = np.broadcast_to(level, (n, GRID.n_y, GRID.n_columns, GRID.n_rows)).astype(np.float32)
    return replace(strips, patches=strips.patches + patchify(level, GRID))


def run(strips, settings=SHORT, masking=SINGLE, seed=1, **options):
    index, n = np.arange(len(strips)), len(strips)
    sources = np.where(index % 2, "odd", "even")
    model = build_masked_model(GRID, ARCH, masking, seed=seed)
    return fit_masked_model(model, strips, index[: n * 3 // 4], index[n * 3 // 4 :], sources, settings, **options)


@pytest.fixture(scope="module")
def learned():
    settings = PretrainingSettings(epochs=12, patience=12, batch_size=32, learning_rate=8e-3, device="cpu")
    return run(steady_strips(640), settings)


@pytest.fixture
def fresh():
    """A model whose decoder is no longer 0."""
    model = build_masked_model(GRID, ARCH, SINGLE, seed=3)
    torch.nn.init.normal_(model.decoder[-1].weight, generator=torch.Generator().manual_seed(0))
    return model


def test_hides_the_share_of_the_valid_patches():
    mask = torch.ones(400, 32, dtype=torch.bool)
    mask[200:, 20:] = False
    hidden = draw_hidden(mask, Masking(0.5, 0.5, 4), torch.Generator().manual_seed(1))
    assert set(hidden[:200].sum(1).tolist()) == {16}
    assert set(hidden[200:].sum(1).tolist()) == {10}
    assert not (hidden & ~mask).any()


def test_runs_are_runs_and_single_patches_are_not():
    """8 of 32 are hidden: two runs of four have at most two beginnings, single patches 8 × 24/31 = 6 on average."""

    def beginnings(run_share):
        mask = torch.ones(300, 32, dtype=torch.bool)
        hidden = draw_hidden(mask, Masking(0.25, run_share, 4), torch.Generator().manual_seed(2)).int()
        return (torch.diff(hidden, dim=1, prepend=torch.zeros(300, 1, dtype=torch.int)) == 1).sum(1).double()

    assert beginnings(1.0).mean() < 2.5
    assert beginnings(0.0).mean() == pytest.approx(8 * 24 / 32 + 8 / 32, abs=0.3)


def test_something_is_hidden_and_something_visible_of_every_strip():
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    for share in (0.01, 0.99):
        hidden = draw_hidden(mask, Masking(share, 0.5, 2), torch.Generator().manual_seed(0))
        assert hidden.sum(1).tolist() == [1, 0, 0]


def test_every_patch_is_hidden_once_and_neighbours_apart():
    turns = torch.stack(hidden_in_turn(7, 3))
    assert turns.sum(0).tolist() == [1] * 7
    assert not (turns[:, 1:] & turns[:, :-1]).any()
    with pytest.raises(MaskingError, match="1 turns for 7 patches; give 2 to 7"):
        hidden_in_turn(7, 1)


def test_masking_is_checked():
    with pytest.raises(MaskingError, match=r"\[share\] = 1\.0: input should be less than 1"):
        Masking(share=1.0)
    with pytest.raises(MaskingError, match=r"\[run_share\] = 2: input should be less than or equal to 1"):
        Masking(run_share=2)
    with pytest.raises(MaskingError, match=r"\[run_patches\] = 0: input should be greater than or equal to 1"):
        Masking(run_patches=0)


def test_nothing_of_a_hidden_patch_reaches_the_model(fresh, strips):
    """Neither its pixels nor its row context nor the stage-1 features of the strip."""
    tensors = strips_to_tensors(strips)
    hidden = torch.zeros(len(strips), GRID.n_tokens, dtype=torch.bool)
    hidden[:, 2] = True
    with torch.inference_mode():
        expected = fresh(hidden, **tensors).predicted
        for name in ("patches", "context"):
            other = {**tensors, name: tensors[name].clone()}
            other[name][:, 2] = 50.0
            assert torch.equal(fresh(hidden, **other).predicted, expected), name
        features = tensors["features"].clone()
        features[:, [i for i, name in enumerate(STAGE1_FEATURES) if name != "log2_bin"]] = 9.0
        assert torch.equal(fresh(hidden, **{**tensors, "features": features}).predicted, expected)


def test_the_rest_of_the_strip_reaches_the_model(fresh, strips):
    """Context of a neighbour, its pixels, the static profile and the binning factor all change the prediction."""
    tensors = strips_to_tensors(strips)
    hidden = torch.zeros(len(strips), GRID.n_tokens, dtype=torch.bool)
    hidden[:, 2] = True
    with torch.inference_mode():
        expected = fresh(hidden, **tensors).predicted[:, 2]
        places = {"patches": (slice(None), 3), "context": (slice(None), 3), "profile": slice(None),
                  "features": (slice(None), STAGE1_FEATURES.index("log2_bin"))}  # fmt: skip
        for name, place in places.items():
            other = {**tensors, name: tensors[name].clone()}
            other[name][place] += 5.0
            assert (fresh(hidden, **other).predicted[:, 2] - expected).abs().max() > 1e-3, name


def test_loss_is_over_live_hidden_pixels_alone(strips):
    """A new model predicts 0, so the loss is the mean square of the compressed pixels that count."""
    model = build_masked_model(GRID, ARCH, SINGLE, seed=1)
    patches = strips.patches.copy()
    patches[:, 1, ::2] = 0  # masked pixels
    patches[0, 1, 1] = np.nan
    mask = strips.mask.copy()
    mask[3, 1] = False  # a patch without any
    tensors = strips_to_tensors(replace(strips, patches=patches, mask=mask))
    hidden = torch.zeros(len(strips), GRID.n_tokens, dtype=torch.bool)
    hidden[:, 1] = True
    output = model(hidden, **tensors)
    counted = np.delete(patches[:, 1, 1::2], 3, axis=0).ravel()
    counted = RESIDUAL_SOFTNESS * np.arcsinh(counted[np.isfinite(counted)] / RESIDUAL_SOFTNESS)
    assert output.live.sum() == counted.size
    assert output.loss.item() == pytest.approx((counted**2).mean(), rel=1e-5)
    assert live_pixels(tensors["patches"], tensors["mask"]).sum() == (patches[mask] != 0).sum() - 1


def test_white_noise_cannot_be_predicted():
    """The error of predicting 0 is a lower limit: on validation strips no model is below it, whatever the training."""
    result = run(random_strips(320), replace(SHORT, epochs=4, learning_rate=3e-3))
    validation = result.history.query("split == 'validation' and source == 'all'")["ratio"]
    assert validation.min() > 0.995
    assert validation.iloc[0] == pytest.approx(1, abs=0.05)


def test_what_the_rest_of_the_strip_determines_is_predicted(learned):
    """Columns at ±3σ in noise of 1σ: predicted, they leave 1 of 10 in units of σ²."""
    ratio = learned.history.query("split == 'validation' and source == 'all'")["ratio"]
    assert ratio.iloc[-1] < 0.25
    assert ratio.iloc[-1] < 0.5 * ratio.iloc[0]


def test_history_gives_every_source(learned):
    history = learned.history
    assert tuple(history.columns) == PRETRAINING_COLUMNS
    last = history[history["epoch"] == history["epoch"].max()]
    assert last[["split", "source"]].to_numpy().tolist() == [
        ["train", "all"],
        ["validation", "all"],
        ["validation", "even"],
        ["validation", "odd"],
    ]
    whole, parts = last[last["split"] == "validation"].iloc[0], last.iloc[2:]
    assert whole["n_pixels"] == parts["n_pixels"].sum()
    assert whole["loss"] == pytest.approx(np.average(parts["loss"], weights=parts["n_pixels"]))


def test_same_seed_same_weights_to_the_bit():
    strips = steady_strips(80)
    first, again, other = (run(strips, replace(SHORT, seed=seed)).model.state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_interrupted_and_gone_on_is_the_same_to_the_bit(tmp_path):
    strips, settings = steady_strips(80), replace(SHORT, epochs=4)
    whole = run(strips, settings)
    path = tmp_path / "checkpoint.safetensors"

    def stop_after_two(rows):
        if rows[0]["epoch"] == 3:  # the checkpoint of the second epoch is on disk, that of the third is not
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(strips, settings, checkpoint=path, on_rows=stop_after_two)
    epochs = []
    resumed = run(strips, settings, checkpoint=path, on_rows=lambda rows: epochs.append(rows[0]["epoch"]))
    assert epochs == [3, 4]
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
    columns = [name for name in PRETRAINING_COLUMNS if name != "seconds"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns])
    with pytest.raises(CheckpointError, match=r"other settings: settings\.learning_rate was 0\.001, now 0\.002"):
        run(strips, replace(settings, learning_rate=2e-3), checkpoint=path)


def test_checkpoint_that_is_none_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"a": 1}, {"x": torch.ones(2)}, {"b": [2]})
    tensors, values = read_checkpoint(path, {"a": 1})
    assert (tensors["x"].tolist(), values) == ([1, 1], {"b": [2]})
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"is no checkpoint .*; remove it to begin anew"):
        read_checkpoint(path, {"a": 1})
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="holds no training state"):
        read_checkpoint(path, {"a": 1})


def test_stops_when_nothing_is_gained_and_keeps_the_best():
    """With 6 strips of noise to learn from, the validation error rises."""
    settings = PretrainingSettings(epochs=60, patience=2, batch_size=2, learning_rate=1e-2, device="cpu")
    result = run(random_strips(8), settings)
    validation = result.history.query("split == 'validation' and source == 'all'")
    assert result.stopped_early
    assert len(validation) < 60
    assert result.best_epoch == validation.loc[validation["ratio"].idxmin(), "epoch"]
    assert validation["epoch"].max() - result.best_epoch >= 2


def test_caller_keeps_its_random_state():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run(steady_strips(20), replace(SHORT, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_rate_rises_and_falls():
    settings = PretrainingSettings(epochs=10, learning_rate=1.0, warmup_fraction=0.1)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = []
    for epoch in range(10):  # a new schedule, as in a training resumed from a checkpoint
        schedule = schedule_rate(optimiser, settings, 10, epoch)
        for _ in range(10):
            rates += schedule.get_last_lr()
            optimiser.step()
            schedule.step()
    rates += schedule.get_last_lr()
    np.testing.assert_allclose(rates[:11], np.arange(1, 12) / 11)
    assert np.argmax(rates) == 10
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_settings_and_strips_are_checked():
    with pytest.raises(PretrainingError, match=r"\[epochs\] = 0: input should be greater than or equal to 1"):
        PretrainingSettings(epochs=0)
    model, strips = build_masked_model(GRID, ARCH), random_strips(4)
    with pytest.raises(PretrainingError, match="3 sources for 4 strips"):
        fit_masked_model(model, strips, np.arange(2), np.arange(2, 4), np.array(["a"] * 3))
    with pytest.raises(PretrainingError, match="there is no validation strip among 4"):
        fit_masked_model(model, strips, np.arange(4), np.arange(0), np.array(["a"] * 4))


def test_loss_that_is_never_finite_is_an_error():
    strips = random_strips(16)
    strips.mask[12:, 1:] = False  # in strips of one patch nothing can be hidden, so there is no validation
    with pytest.raises(PretrainingError, match="validation loss was never finite: lower pretrain"):
        run(strips, replace(SHORT, epochs=1))


def test_saved_model_is_loaded_to_the_bit_and_nothing_is_pickled(learned, tmp_path):
    learned.model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = load_masked_model(tmp_path)
    for name, values in learned.model.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name])
    assert loaded.grid == GRID
    assert loaded.config.token_masking == SINGLE
    assert loaded.config.training["best_epoch"] == learned.best_epoch


def test_folder_that_holds_no_encoder_is_refused(tmp_path):
    assert not is_masked_model(tmp_path)
    build_model("mlp", GRID).save_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match="holds no pretrained encoder; make one with `shutterless pretrain`"):
        load_masked_model(tmp_path)
    build_masked_model(GRID, ARCH).save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"has no model\.safetensors; copy the whole folder"):
        load_masked_model(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(StoredFileError, match=r"holds pickles \['pytorch_model\.bin'\]"):
        load_masked_model(tmp_path)


def test_detector_starts_from_the_encoder_with_a_head_of_its_own(learned):
    fresh, started = (build_model("transformer", GRID, ARCH, seed=9) for _ in range(2))
    start_from_encoder(started, learned.model, "runs/pretrained")
    before, after, source = fresh.state_dict(), started.state_dict(), learned.model.state_dict()
    for name, values in after.items():
        own = name.split(".")[0] not in ENCODER_PARTS
        assert torch.equal(values, before[name] if own else source[name]), name
    assert {name.split(".")[0] for name in after} == {*ENCODER_PARTS, "head", "pool"}


def test_untrained_encoder_is_that_of_the_detector_of_the_same_seed():
    models = build_model("transformer", GRID, ARCH, seed=6), *(build_masked_model(GRID, ARCH, seed=n) for n in (6, 7))
    detector, masked, other = (
        {f"{part}.{name}": v for part in ENCODER_PARTS for name, v in model.get_submodule(part).state_dict().items()}
        for model in models
    )
    assert detector.keys() == masked.keys()
    assert [name for name in detector if not torch.equal(detector[name], masked[name])] == []
    assert any(not torch.equal(detector[name], other[name]) for name in detector)


def test_another_grid_architecture_or_features_are_refused_with_both(learned):
    other = build_model("transformer", TokenGrid(n_columns=4, n_rows=30, patch_rows=5), ARCH)
    with pytest.raises(GridError, match=r"runs/p has .*n_columns=5.*but the model expects .*n_columns=4"):
        start_from_encoder(other, learned.model, "runs/p")
    other = build_model("transformer", GRID, {**ARCH, "n_layers": 3, "dropout": 0.5})
    with pytest.raises(PretrainedError, match=r"pretrained with \{'n_layers': 2\}, but .* has \{'n_layers': 3\}; set"):
        start_from_encoder(other, learned.model, "runs/p")
    other = build_model("transformer", GRID, ARCH)
    other.config.feature_names = ["snr"]
    with pytest.raises(PretrainedError, match=r"pretrained with features .*; pretrain again"):
        start_from_encoder(other, learned.model, "runs/p")


def test_reconstruction_of_a_patch_comes_from_the_others(learned):
    """The content of a patch changes the predictions of the others, never its own."""
    strips = steady_strips(4, seed=8)
    patches = strips.patches.copy()
    patches[:, 2] = 4.0
    first, second = (reconstruct(learned.model, s, n_turns=GRID.n_tokens, device="cpu")
                     for s in (strips, replace(strips, patches=patches)))  # fmt: skip
    rows = slice(2 * GRID.patch_rows, 3 * GRID.patch_rows)
    np.testing.assert_array_equal(second.predicted[..., rows], first.predicted[..., rows])
    assert np.abs(second.predicted - first.predicted).max() > 1e-3


def test_reconstruction_error_is_that_of_what_is_shown(learned):
    strips = steady_strips(5, seed=9)
    mask, patches = strips.mask.copy(), strips.patches.copy()
    mask[1, 0], patches[2, 3, :7] = False, 0
    found = reconstruct(learned.model, replace(strips, mask=mask, patches=patches), device="cpu")
    shown, guess = (RESIDUAL_SOFTNESS * np.arcsinh(v / RESIDUAL_SOFTNESS) for v in (found.strips, found.predicted))
    expected = np.nanmean(((shown - guess) ** 2).reshape(5, -1), axis=1)
    np.testing.assert_allclose(found.strip_error, expected, rtol=1e-4)
    assert found.n_live[2, 3] == GRID.patch_size - 7
    assert np.isnan(found.patch_error[1, 0])
    assert found.ratio < 0.35
    assert (found.strip_ratio < 0.6).all()


def test_an_odd_strip_has_the_larger_error(learned):
    """A pulse in one patch that the others do not determine."""
    strips = steady_strips(40, seed=10)
    patches = strips.patches.copy()
    patches[:20, 3] += 8
    error = reconstruct(learned.model, replace(strips, patches=patches), device="cpu").strip_error
    assert error[:20].min() > error[20:].max()


def test_a_strip_without_live_pixels_has_no_error(learned):
    strips = steady_strips(2)
    found = reconstruct(learned.model, replace(strips, mask=np.zeros_like(strips.mask)), device="cpu")
    assert np.isnan(found.strip_error).all()


def test_batches_do_not_matter_and_no_strips_give_nothing(learned):
    strips = steady_strips(6, seed=11)
    whole, single = (reconstruct(learned.model, strips, batch_size=size, device="cpu") for size in (6, 1))
    np.testing.assert_allclose(single.predicted, whole.predicted, atol=2e-5)
    assert reconstruct(learned.model, strips[:0], device="cpu").strip_error.shape == (0,)


def test_reconstruction_of_another_grid_is_refused(learned):
    with pytest.raises(GridError, match=r"the batch of strips has TokenGrid\(n_y=1, n_columns=16"):
        reconstruct(learned.model, random_strips(1), grid=TokenGrid())


def test_plot_shows_four_panels_side_by_side(learned):
    found = reconstruct(learned.model, steady_strips(2, seed=12), device="cpu")
    _, ax = plt.subplots()
    assert plot_reconstruction(found, 1, ax) is ax
    assert [label.get_text() for label in ax.get_xticklabels()] == list(PANELS)
    strip, masked, _, guess, difference = (image.get_array() for image in ax.images)
    np.testing.assert_allclose(difference, strip - guess)
    n_hidden = found.hidden.sum() * GRID.patch_rows * GRID.n_columns
    assert np.ma.getmaskarray(masked).sum() == n_hidden
    plt.close()


def test_plot_of_a_pretraining(learned):
    _, ax = plt.subplots()
    assert plot_pretraining(learned.history, ax) is ax
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["floor of white noise", "train, all", "validation, all", "even", "odd"]
    plt.close()
    _, ax = plt.subplots()
    plot_pretraining(learned.history[:0], ax)
    assert [text.get_text() for text in ax.texts] == ["no epochs"]
    plt.close()
