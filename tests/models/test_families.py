"""Every family has the same input and output, and is saved and loaded to the bit."""

import json
import os
import pickle
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from shutterless.models.configuration import DetectorConfig
from shutterless.models.dataset import strips_to_tensors
from shutterless.models.families import FAMILIES, ModelError, build_model, family_of, load_model
from shutterless.models.inputs import DetectorModel
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.stored_files import PICKLE_SUFFIXES, StoredFileError
from shutterless.pipeline.tokens import STAGE1_FEATURES, GridError, TokenGrid, patchify, unpatchify

OUTPUTS = ("event_logit", "kind_logits", "onset", "log2_duration")


@torch.inference_mode()
def outputs_of(model, strips):
    output = model(**strips_to_tensors(strips))
    return {name: output[name].numpy() for name in OUTPUTS}


def test_output_shapes(model, strips):
    output = outputs_of(model, strips)
    assert {name: values.shape for name, values in output.items()} == {
        "event_logit": (7,),
        "kind_logits": (7, len(KINDS)),
        "onset": (7,),
        "log2_duration": (7,),
    }


def test_no_labels_no_loss(model, strips):
    assert model(**strips_to_tensors(strips)).loss is None


def test_batched_equals_single(model, strips):
    batched = outputs_of(model, strips)
    for i in range(len(strips)):
        single = outputs_of(model, strips[i : i + 1])
        for name in OUTPUTS:
            np.testing.assert_allclose(single[name][0], batched[name][i], atol=2e-5)


def test_order_of_strips_does_not_matter(model, strips):
    forward, backward = outputs_of(model, strips), outputs_of(model, strips[::-1])
    for name in OUTPUTS:
        np.testing.assert_allclose(backward[name][::-1], forward[name], atol=2e-5)


def test_what_lies_under_the_mask_has_no_influence(model, strips):
    mask = strips.mask.copy()
    mask[:, -2:] = False
    clean, wild = replace(strips, mask=mask), replace(strips, mask=mask, patches=strips.patches.copy())
    wild.patches[:, -2:] = 1e4
    wild.patches[0, -1] = np.nan
    for name, values in outputs_of(model, clean).items():
        np.testing.assert_array_equal(outputs_of(model, wild)[name], values)


def test_what_is_not_masked_has_influence(model, strips):
    """Every patch, the row context, the profile and the features reach the event logit."""
    before = outputs_of(model, strips)["event_logit"]
    for token in range(model.grid.n_tokens):
        bright = strips.patches.copy()
        bright[:, token] += 5
        assert np.all(outputs_of(model, replace(strips, patches=bright))["event_logit"] != before)
    for name in ("context", "profile", "features"):
        changed = replace(strips, **{name: getattr(strips, name) + 1})
        assert np.all(outputs_of(model, changed)["event_logit"] != before)


def test_strip_without_valid_pixel_is_finite(model, strips):
    output = outputs_of(model, replace(strips, mask=np.zeros_like(strips.mask)))
    assert all(np.isfinite(values).all() for values in output.values())


def test_extreme_inputs_are_finite(model, strips):
    """A saturated star, a cosmic ray and an undefined stage-1 number must not become NaN."""
    patches, features, profile = strips.patches.copy(), strips.features.copy(), strips.profile.copy()
    patches[0, 0], features[0, 0], profile[0, 0] = np.inf, np.nan, 1e9
    output = outputs_of(model, replace(strips, patches=patches, features=features, profile=profile))
    assert all(np.isfinite(values).all() for values in output.values())


def test_save_and_load_to_the_bit(model, strips, tmp_path):
    model.scaling.fit(strips)
    model.config.calibration_slope, model.config.calibration_intercept = 0.75, -0.5
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    for name, values in outputs_of(model, strips).items():
        np.testing.assert_array_equal(outputs_of(loaded, strips)[name], values)
    assert loaded.grid == model.grid
    assert (loaded.config.calibration_slope, loaded.config.calibration_intercept) == (0.75, -0.5)
    assert loaded.config.kinds == list(KINDS)
    assert loaded.config.feature_names == list(STAGE1_FEATURES)


def test_saved_folder_is_json_and_safetensors(model, tmp_path, capsys):
    model.save_pretrained(tmp_path)
    load_model(tmp_path)
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    weights = load_file(tmp_path / "model.safetensors")
    assert set(weights) == set(model.state_dict())


def test_loading_leaves_no_layer_random(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = model.state_dict()
    for seed in (1, 2):
        torch.manual_seed(seed)
        loaded = load_model(tmp_path).state_dict()
        assert loaded.keys() == saved.keys()
        assert [name for name, values in loaded.items() if not torch.equal(values, saved[name])] == []


def test_eager_equals_sdpa(model, strips, tmp_path):
    model.save_pretrained(tmp_path)
    mask = strips.mask.copy()
    mask[2, 3] = False
    masked = replace(strips, mask=mask)
    found = {}
    for attention in ("eager", "sdpa"):
        loaded = load_model(tmp_path, attn_implementation=attention)
        if family_of(loaded) == "transformer":
            assert loaded.encoder.config._attn_implementation == attention
        found[attention] = outputs_of(loaded, masked)
    for name in OUTPUTS:
        np.testing.assert_allclose(found["eager"][name], found["sdpa"][name], atol=2e-5)


def test_transformer_distinguishes_positions(grid, strips):
    """Attention alone ignores order; exchanging two patches must change the result."""
    model = build_model("transformer", grid, {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "mlp_size": 16})
    order = [3, 1, 2, 0, 4, 5]
    swapped = replace(strips, patches=strips.patches[:, order], context=strips.context[:, order])
    assert np.abs(outputs_of(model, swapped)["onset"] - outputs_of(model, strips)["onset"]).max() > 1e-4


def test_cnn_lays_columns_and_rows_out_as_they_were(grid):
    """Patches are put back to channels (columns) along time: pixel (x, t) holds 100 x + t."""
    from shutterless.models.inputs import ModelInputs
    from shutterless.pipeline.tokens import patchify

    model = build_model("cnn", grid)
    strip = 100 * np.arange(5)[:, None] + np.arange(24)
    inputs = ModelInputs(
        patches=torch.from_numpy(patchify(strip[None, None].astype(np.float32), grid)),
        context=torch.arange(24.0).reshape(1, 6, 4),
        profile=torch.zeros(1, 5),
        features=torch.zeros(1, 8),
        mask=torch.tensor([[True, False, True, True, True, True]]),
    )
    channels = model._channels(inputs)[0].numpy()
    np.testing.assert_array_equal(channels[:5], strip)
    np.testing.assert_array_equal(channels[5], np.arange(24))
    np.testing.assert_array_equal(channels[6], np.repeat([1, 0, 1, 1, 1, 1], 4))


def test_empty_hidden_sizes_is_the_perceptron(grid, strips):
    """The difference of the logits of two strips is linear in the (scaled) pixels: f(x + a) − f(x) = w·a."""
    model = build_model("mlp", grid, {"hidden_sizes": []})
    weight = model.head.event.weight[0].detach().numpy()
    size = grid.patch_size + grid.patch_rows + 1
    assert len(weight) == grid.n_tokens * size + grid.profile_size + len(STAGE1_FEATURES)
    brighter = replace(strips, patches=strips.patches.copy())
    brighter.patches[:, 2, 7] += 1
    step = 5 * (np.arcsinh(brighter.patches[:, 2, 7] / 5) - np.arcsinh(strips.patches[:, 2, 7] / 5))
    difference = outputs_of(model, brighter)["event_logit"] - outputs_of(model, strips)["event_logit"]
    np.testing.assert_allclose(difference, weight[2 * size + 7] * step, atol=1e-5)


def test_default_sizes_are_comparable():
    """On the default grid (16 columns, 256 rows) no family is more than three times larger than another."""
    sizes = {name: build_model(name).num_parameters() for name in FAMILIES}
    assert max(sizes.values()) < 3 * min(sizes.values())
    assert max(sizes.values()) < 1_000_000


def test_image_cubes_have_rows_too(family):
    grid = TokenGrid(n_y=3, n_columns=2, n_rows=20, patch_rows=5)
    from .conftest import SMALL_ARCH, random_strips

    model, strips = build_model(family, grid, SMALL_ARCH[family]), random_strips(2, grid)
    before = outputs_of(model, strips)["event_logit"]
    assert before.shape == (2,)
    for y in range(grid.n_y):  # the light of each row reaches the logit
        image = unpatchify(strips.patches, grid).copy()
        image[:, y] += 5
        assert np.all(outputs_of(model, replace(strips, patches=patchify(image, grid)))["event_logit"] != before)


def test_seed_fixes_the_weights_and_leaves_the_callers_random_state(family, grid):
    state = torch.get_rng_state()
    first, second, third = (build_model(family, grid, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_other_grid_is_refused(model):
    from .conftest import random_strips

    other = random_strips(2, TokenGrid(n_columns=4, n_rows=30, patch_rows=5))
    with pytest.raises(GridError, match=r"context of shape \(2, 6, 5\) do not fit.*n_columns=5"):
        model(**strips_to_tensors(other))


def test_other_number_of_features_is_refused(model, strips):
    with pytest.raises(GridError, match=r"features of shape \(7, 3\) do not fit the model.*9 features"):
        model(**strips_to_tensors(replace(strips, features=strips.features[:, :3])))


def test_unknown_family():
    with pytest.raises(ModelError, match=r"unknown model family 'rnn'; choose one of .*cnn.*mlp.*transformer"):
        build_model("rnn")


def test_unknown_hyperparameter_names_the_nearest():
    with pytest.raises(ModelError, match="transformer has no hyperparameter 'hiden_size'; did you mean 'hidden_size'"):
        build_model("transformer", arch={"hiden_size": 3})


def test_cnn_sizes_must_agree():
    with pytest.raises(ValueError, match="3 channels but 2 strides"):
        build_model("cnn", arch={"channels": [4, 4, 4], "strides": [1, 2]})
    with pytest.raises(ValueError, match="kernel_rows 4 is even"):
        build_model("cnn", arch={"kernel_rows": 4})


def test_base_class_is_no_detector(grid, strips):
    base = DetectorModel(DetectorConfig(grid=asdict(grid)), summary_size=3)
    with pytest.raises(NotImplementedError, match="DetectorModel does not define how a strip becomes one vector"):
        base(**strips_to_tensors(strips))


def test_folder_without_model(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_model(tmp_path)


def test_unknown_model_type_lists_families(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"model_type 'bert'.*'transformer'.*'cnn'.*'mlp'"):
        load_model(tmp_path)


class MakesFile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_the_pickle_of_these_tests_runs_code(tmp_path):
    pickle.loads(pickle.dumps(MakesFile(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", sorted(PICKLE_SUFFIXES))
@pytest.mark.parametrize("place", ["weights{}", "deep/down/weights{}", "WEIGHTS{}"])
def test_a_pickle_anywhere_is_refused_unread(grid, tmp_path, suffix, place):
    """It is also refused beside valid safetensors, in a subfolder, or in capitals."""
    folder = tmp_path / "model"
    build_model("mlp", grid).save_pretrained(folder)
    name = place.format(suffix.upper() if place.isupper() else suffix)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(MakesFile(tmp_path / "ran")))
    with pytest.raises(
        StoredFileError, match=rf"holds pickles \['{re.escape(name)}'\]; pickles can run code and are refused"
    ):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_the_suffixes_of_pickles():
    assert {".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib"} <= PICKLE_SUFFIXES


def test_pickled_weights_alone_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors; copy the whole folder"):
        load_model(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(StoredFileError, match=r"holds pickles \['pytorch_model\.bin'\]"):
        load_model(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        type(model).from_pretrained(tmp_path)


def test_a_pickle_under_the_name_of_safetensors_is_refused_unread(model, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(MakesFile(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path):
    """The second MLP has 16 outputs in its first layer, the first 8."""
    for width in (8, 16):
        build_model("mlp", arch={"hidden_sizes": [width]}).save_pretrained(tmp_path / str(width))
    (tmp_path / "8" / "config.json").write_bytes((tmp_path / "16" / "config.json").read_bytes())
    with pytest.raises(
        ModelError, match=r"the weights in .*model\.safetensors do not fit its config\.json: .* has shape"
    ):
        load_model(tmp_path / "8")


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_weights_have_the_rights_of_the_umask(tmp_path, umask, rights):
    before = os.umask(umask)
    try:
        build_model("mlp", arch={"hidden_sizes": [8]}).save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == rights
    load_model(tmp_path)


def test_a_saved_model_has_a_readme_that_the_hub_reads(model, tmp_path):
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    family = family_of(model)
    assert card.data.library_name == "shutterless"
    assert {"astronomy", family} <= set(card.data.tags)
    assert f"# {family}, {model.num_parameters():,} parameters" in card.text
    assert "AutoModel.from_pretrained" in card.text


def test_every_family_is_loaded_by_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model)


def test_what_is_pushed_to_the_hub_is_a_whole_model(model, strips, tmp_path, monkeypatch):
    asked = []

    def create_repo(self, repo_id, **options):
        asked.append((repo_id, options))

    def upload_folder(self, *, repo_id, folder_path, **options):
        return shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    folder = model.push_to_hub("ada/mine", private=True)
    assert asked == [("ada/mine", {"private": True, "exist_ok": True})]
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    pushed, own = outputs_of(load_model(folder), strips), outputs_of(model, strips)
    np.testing.assert_array_equal(pushed["event_logit"], own["event_logit"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sizes": [10**9]}, r"hidden_sizes = \[1000000000\] is no value of it"),
        ({"hidden_sizes": [8] * 10_000}, "is no value of it"),
        ({"dropout": "0.1"}, r"dropout = '0\.1' is no value of it"),
        ({"dropout": float("nan")}, "dropout = nan is no value of it"),
        ({"kinds": [1]}, "kinds is no list of at most 1000 names"),
        ({"grid": {"n_rows": 1 << 40}}, "holds more than 4,194,304 numbers"),
        ({"auto_map": {"AutoModel": "stolen.Model"}}, "auto_map would bring code of its own"),
        ({"dtype": False}, "dtype = False is none of float32, float64"),
        ({"id2label": 3}, "is not that of a shutterless-mlp"),
    ],
)
def test_config_of_absurd_sizes_is_refused_before_anything_is_built(tmp_path, change, message):
    build_model("mlp", arch={"hidden_sizes": [8]}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = build_model("mlp", arch={"hidden_sizes": [8]})
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"in .*model\.safetensors is not finite; train again"):
        load_model(tmp_path)
