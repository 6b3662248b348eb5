"""Parameter counts that can be checked by hand."""

import pytest
from torch import nn

from shutterless.models.describe import (
    LAYER_COLUMNS,
    count_parameters,
    describe_detector,
    describe_mlp,
    hyperparameters,
    layer_table,
    task_table,
)
from shutterless.models.families import build_model
from shutterless.models.mlp import PlainMlp
from shutterless.models.outputs import DetectorHead


def test_three_four_three_one_has_35_parameters():
    """(3 + 1)·4 + (4 + 1)·3 + (3 + 1)·1 = 16 + 15 + 4."""
    network = PlainMlp([3, 4, 3, 1], "binary")
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


def test_textbook_network_is_described_as_in_the_textbook():
    lines = describe_mlp([3, 4, 3, 1], "binary").splitlines()
    assert lines[0] == "MLP 3–4–3–1: 35 parameters"
    cells = [line.split() for line in lines if " + " in line and " = " in line]
    assert [row[-5:] for row in cells] == [
        ["12", "+", "4", "=", "16"],
        ["12", "+", "3", "=", "15"],
        ["3", "+", "1", "=", "4"],
        ["27", "+", "8", "=", "35"],
    ]
    assert cells[-1][0] == "total"
    assert any(line.split()[:4] == ["output", "binary", "1", "sigmoid"] for line in lines)


def test_description_adds_up_and_ends_with_the_head(model):
    rows = [line.split() for line in describe_detector(model).splitlines() if " = " in line]
    numbers = [[int(row[place].replace(",", "")) for place in (-5, -3, -1)] for row in rows]
    assert all(weights + biases == parameters for weights, biases, parameters in numbers)
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]
    assert numbers[-1][-1] == count_parameters(model)
    names = [row[0] for row in rows]
    assert names[-5:] == ["head.event", "head.kind", "head.onset", "head.log2_duration", "total"]


def test_hyperparameters_are_described_in_two_groups_apart_from_what_was_found(grid):
    model = build_model("cnn", grid, {"kernel_rows": 3})
    fresh = describe_detector(model)
    assert "hyperparameters of the architecture" in fresh
    assert "hyperparameters of the training" not in fresh
    model.config.training = {"learning_rate": 0.01, "best_epoch": 2.0, "n_strips": 99}
    _, arch, train, found = describe_detector(model).replace("found in", "hyperparameters found in").split("hyperparam")
    assert "kernel_rows  3" in arch
    assert "learning_rate  0.01" in train
    assert "best_epoch" not in train
    assert "n_strips    99" in found


def test_tasks_of_the_heads_stand_in_the_description(grid):
    model = build_model("mlp", grid, loss_weights={"onset": 0.25})
    table = task_table(model.head.readings).set_index("reading")
    assert table["last activation"].tolist() == ["sigmoid", "softmax", "identity", "identity"]
    assert table.loc["kind", "outputs"] == len(model.config.kinds)
    assert table.loc["onset", "loss"] == "smooth L1 (β 0.1)"
    (line,) = [line for line in describe_detector(model).splitlines() if line.split()[:1] == ["onset"]]
    assert " ".join(line.split()).endswith("identity smooth L1 (β 0.1) 0.25 a number; NaN where there is none")
