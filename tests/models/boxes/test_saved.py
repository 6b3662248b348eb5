from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shutterless.models.boxes.fit import build_box_detector, find_in_tiles
from shutterless.models.boxes.judge import judge_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.simulated import simulate_tiles
from shutterless.models.families import ModelError
from shutterless.pipeline.simulation.difference_images import BOX_KINDS, DifferenceSettings

from .conftest import SMALL, views_of

BUNDLED = Path(str(files("shutterless.models.weights"))) / "boxes"


@pytest.fixture
def folder(tmp_path):
    build_box_detector(**SMALL).save_pretrained(tmp_path)
    return tmp_path


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_saved_detector_answers_as_before(folder, bars):
    pixels = views_of(bars.pixels[:2])
    with torch.inference_mode():
        expected, found = build_box_detector(**SMALL)(pixels), load_boxes(folder)(pixels)
    for name in ("object_logits", "kind_logits", "boxes"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def test_a_folder_without_a_detector_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no box detector in .*: model.safetensors is missing"):
        load_boxes(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "shutterless-cnn"}, "holds a model of type 'shutterless-cnn', no detector of boxes"),
        ({"tile_px": 1 << 20}, "are .*, no sizes"),
        ({"channels": [8, -8, 16]}, "are .*, no sizes"),
        ({"tile_px": 65}, "tile_px 65 is no multiple of 16"),
        ({"channels": [8, 16, 16]}, "do not fit its config.json: .* has shape"),
        ({"kinds": 3}, "is not that of a detector of boxes"),
    ],
)
def test_a_configuration_that_is_not_the_weights_own_is_refused(folder, values, message):
    change(folder, **values)
    with pytest.raises(ModelError, match=message):
        load_boxes(folder)


def test_damaged_weights_are_refused(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["kind.bias"][0] = torch.nan
    save_file(weights, path)
    with pytest.raises(ModelError, match="are not finite"):
        load_boxes(folder)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is not a safetensors file"):
        load_boxes(folder)


def test_the_detector_that_ships_finds_bright_echoes_of_fields_it_never_saw():
    model = load_boxes(BUNDLED)
    assert set(model.config.kinds) == set(BOX_KINDS)
    tiles = simulate_tiles(9901, DifferenceSettings(echo_sigma=(3, 5), trails=0, ghosts=0), 4, 3, echo_share=1.0)
    judged = judge_boxes(find_in_tiles(model, tiles), tiles.boxes, "echo", least_iou=0.1)
    assert judged.n_true > 10
    assert judged.precision_at(0.7) > 0.8
