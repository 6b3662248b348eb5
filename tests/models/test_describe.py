"""Parameter counts that can be checked in the head."""

import pytest
from torch import nn

from shutterless.models.describe import LAYER_COLUMNS, count_parameters, hyperparameters, layer_table
from shutterless.models.families import build_model
from shutterless.models.outputs import DetectorHead


def test_three_four_three_one_has_35_parameters():
    """(3 + 1)·4 + (4 + 1)·3 + (3 + 1)·1 = 16 + 15 + 4."""
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    table = layer_table(network)
    assert tuple(table.columns) == LAYER_COLUMNS
    assert table["parameters"].tolist() == [16, 15, 4]
    assert table["weights"].tolist() == [12, 12, 3]
    assert table["biases"].tolist() == [4, 3, 1]
    assert table["shape"].tolist() == ["4 × 3", "3 × 4", "1 × 3"]
    assert count_parameters(network) == 35


def test_shared_weights_are_counted_once():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    assert count_parameters(network) == 4
    assert layer_table(network)["parameters"].sum() == 4


def test_network_without_parameters_is_an_empty_table():
    assert tuple(layer_table(nn.ReLU()).columns) == LAYER_COLUMNS
    assert count_parameters(nn.ReLU()) == 0


def test_table_adds_up_to_the_model(model):
    assert layer_table(model)["parameters"].sum() == count_parameters(model)


def test_head_of_a_perceptron():
    """10 inputs and 7 classes: 11 numbers each for event, onset and duration, 77 for the classes."""
    assert count_parameters(DetectorHead(summary_size=2, n_features=8, n_kinds=7)) == 3 * 11 + 77


def test_hyperparameters_of_architecture_and_training_are_apart(grid):
    model = build_model("cnn", grid, {"kernel_rows": 3})
    assert hyperparameters(model)["arch.kernel_rows"] == 3
    assert {name.split(".")[0] for name in hyperparameters(model)} == {"arch"}
    model.config.training = {"learning_rate": 0.01}
    assert hyperparameters(model)["train.learning_rate"] == pytest.approx(0.01)
