"""Output size, last activation and loss fit together; other combinations are refused with the right one named."""

import math

import pytest
import torch
from torch.nn import functional

from shutterless.models.mlp import PlainMlp, parse_sizes
from shutterless.models.tasks import ACTIVATIONS, LOSSES, TASKS, TaskError, choose_reading, mean_error
from shutterless.pipeline.examples.training import UNKNOWN_KIND

RIGHT = {
    "binary": "outputs: 1, activation 'sigmoid', loss 'binary cross-entropy'",
    "multiclass": "3 outputs, activation 'softmax', loss 'cross-entropy'",
    "regression": "outputs: one per number, activation 'identity', loss 'smooth L1' or 'mean squared error'",
}


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        ("binary", {}, (1, "sigmoid", "binary cross-entropy")),
        ("multiclass", {"n_classes": 3}, (3, "softmax", "cross-entropy")),
        ("multiclass", {"n_outputs": 5}, (5, "softmax", "cross-entropy")),
        ("regression", {}, (1, "identity", "smooth L1")),
        ("regression", {"n_outputs": 2, "loss": "mean squared error"}, (2, "identity", "mean squared error")),
        ("binary", {"n_classes": 2, "n_outputs": 1, "activation": "sigmoid"}, (1, "sigmoid", "binary cross-entropy")),
    ],
)
def test_the_task_chooses_the_rest(task, given, expected):
    reading = choose_reading(task, **given)
    assert (reading.n_outputs, reading.task.activation, reading.loss_name) == expected
    assert reading.layer(7).weight.shape == (expected[0], 7)


@pytest.mark.parametrize(
    ("task", "given", "problem"),
    [
        ("binary", {"activation": "softmax"}, "activation 'softmax' does not go with it"),
        ("binary", {"loss": "cross-entropy"}, "loss 'cross-entropy' does not go with it"),
        ("binary", {"loss": "mean squared error"}, "loss 'mean squared error' does not go with it"),
        ("binary", {"n_outputs": 2}, "2 outputs instead of 1"),
        ("multiclass", {"n_classes": 3, "n_outputs": 1}, "1 output for 3 classes instead of 3"),
        ("multiclass", {"n_classes": 3, "activation": "sigmoid"}, "activation 'sigmoid' does not go with it"),
        ("multiclass", {"n_classes": 3, "loss": "mean squared error"}, "loss 'mean squared error' does not go"),
        ("regression", {"activation": "sigmoid"}, "activation 'sigmoid' does not go with it"),
        ("regression", {"loss": "cross-entropy"}, "loss 'cross-entropy' does not go with it"),
        ("regression", {"n_outputs": 0}, "0 outputs instead of 1"),
    ],
)
def test_a_wrong_pairing_is_refused_with_the_right_one_named(task, given, problem):
    with pytest.raises(TaskError, match=rf"^{task}: {problem}.*\. What goes with {task}: {RIGHT[task]}") as caught:
        choose_reading(task, **given)
    assert TASKS[task].reason in str(caught.value)


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("multiclass", {"n_outputs": 1}, "softmax of one output is always 1.*outputs: one per class"),
        ("multiclass", {}, "the number of classes is missing.*activation 'softmax', loss 'cross-entropy'"),
        ("binary", {"n_classes": 3}, "3 classes are a task for multiclass, with 3 outputs, softmax, cross-entropy"),
        ("regression", {"n_classes": 4}, "4 classes are a task for multiclass, with 4 outputs"),
        ("binary", {"loss": "binary cross entropy"}, "unknown loss .*; did you mean 'binary cross-entropy'"),
        ("binary", {"activation": "relu"}, r"unknown activation 'relu'; known are \['identity', 'sigmoid', 'softmax'"),
        ("regresion", {}, "unknown task 'regresion'; did you mean 'regression'"),
        ("binary", {"n_outputs": 3, "activation": "softmax"}, "3 outputs instead of 1; activation 'softmax' does not"),
    ],
)
def test_what_cannot_be_a_head_says_why(task, given, message):
    with pytest.raises(TaskError, match=message):
        choose_reading(task, **given)


def test_every_row_names_an_activation_and_losses_that_there_are():
    for name, row in TASKS.items():
        assert row.name == name
        assert row.activation in ACTIVATIONS
        assert set(row.losses) <= set(LOSSES)


def test_losses_solved_by_hand():
    """Undecided logits cost ln 2 for two outcomes, ln 3 for three classes; an error of 3 costs 3 − 1/2 or 9."""
    three, off = torch.zeros(2, 3), torch.tensor([3.0, 5.0])
    assert choose_reading("binary").loss(torch.zeros(2), torch.tensor([0.0, 1])).item() == pytest.approx(math.log(2))
    classes = choose_reading("multiclass", n_classes=3).loss(three, torch.tensor([0, 2]))
    assert classes.item() == pytest.approx(math.log(3))
    labels = torch.tensor([0.0, float("nan")])
    assert choose_reading("regression").loss(off, labels).item() == pytest.approx(2.5)
    squared = choose_reading("regression", loss="mean squared error")
    assert squared.loss(off, labels).item() == pytest.approx(9)


@pytest.mark.parametrize("loss", TASKS["regression"].losses)
def test_without_any_label_a_regression_has_no_loss_and_a_finite_gradient(loss):
    found = torch.tensor([1.0, 2.0], requires_grad=True)
    error = choose_reading("regression", loss=loss).loss(found, torch.full((2,), float("nan")))
    error.backward()
    assert error.item() == 0
    assert found.grad.tolist() == [0, 0]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_weights_of_one_change_nothing_and_a_weight_of_nothing_leaves_a_label_out(task):
    reading = choose_reading(task, n_classes=3 if task == "multiclass" else None)
    torch.manual_seed(1)
    outputs = torch.randn(4, 3) if task == "multiclass" else torch.randn(4)
    labels = torch.tensor([0, 1, 1, 0] if task == "multiclass" else [0.0, 1, 1, 0])
    plain = reading.loss(outputs, labels)
    assert reading.loss(outputs, labels, torch.ones(4)).item() == pytest.approx(plain.item())
    half = reading.loss(outputs, labels, torch.tensor([0.5, 0.5, 0, 0]))
    assert half.item() == pytest.approx(reading.loss(outputs[:2], labels[:2]).item())


def test_an_event_of_no_named_kind_counts_in_no_loss_of_kinds():
    reading = choose_reading("multiclass", n_classes=3)
    outputs, weight = torch.eye(3), torch.ones(3)
    some = reading.loss(outputs, torch.tensor([0, UNKNOWN_KIND, 1]), weight)
    assert some.item() == pytest.approx(reading.loss(outputs[[0, 2]], torch.tensor([0, 1])).item())
    assert reading.loss(outputs, torch.full((3,), UNKNOWN_KIND), weight).item() == 0.0


def test_activations_report_probabilities_and_numbers():
    outputs = torch.tensor([[0.0, math.log(3)]])
    assert choose_reading("binary").activate(outputs)[0].tolist() == pytest.approx([0.5, 0.75])
    assert choose_reading("multiclass", n_classes=2).activate(outputs)[0].tolist() == pytest.approx([0.25, 0.75])
    assert choose_reading("regression").activate(outputs) is outputs


def test_smooth_loss_is_torchs_own_where_every_label_is_known():
    found, wanted = torch.randn(20), torch.randn(20)
    expected = functional.smooth_l1_loss(found, wanted, beta=0.1)
    assert mean_error(found, wanted, 0.1).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "task"), [([3, 4, 3, 1], "binary"), ([3, 4, 3], "multiclass"), ([3, 2], "regression")]
)
def test_plain_mlp_learns_its_task(sizes, task):
    """The loss of three easy tasks falls to a small part of that of random weights."""
    torch.manual_seed(1)
    inputs = torch.randn(256, 3)
    labels = {
        "binary": (inputs[:, 0] > 0).float(),
        "multiclass": inputs.argmax(1),
        "regression": inputs[:, :2] * 2 + 1,
    }[task]
    network = PlainMlp(sizes, task)
    start = network.loss(inputs, labels).item()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        network.loss(inputs, labels).backward()
        optimiser.step()
    assert network.loss(inputs, labels).item() < 0.2 * start
    reported = network.predict(inputs)
    assert reported.shape == ((256,) if sizes[-1] == 1 else (256, sizes[-1]))
    if task == "multiclass":
        assert reported.sum(1).detach().numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("sizes", "task", "message"),
    [
        ([3, 4, 1], "multiclass", "softmax of one output is always 1"),
        ([3, 4, 3], "binary", "3 outputs instead of 1"),
        ([3], "regression", r"layers \[3\]: give the numbers of inputs, hidden units and outputs"),
        ([3, 0, 1], "regression", r"layers \[3, 0, 1\]: give .* each at least 1, as in 3-4-3-1"),
    ],
)
def test_plain_mlp_refuses_sizes_that_do_not_fit(sizes, task, message):
    with pytest.raises(TaskError, match=message):
        PlainMlp(sizes, task)


@pytest.mark.parametrize("text", ["3-4-3-1", "3–4–3–1", "3, 4, 3, 1", " 3 4 3 1 "])
def test_sizes_are_read_as_people_write_them(text):
    assert parse_sizes(text) == [3, 4, 3, 1]


@pytest.mark.parametrize("text", ["", "3-x-1", "3--1", "-3-1"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(TaskError, match=r"layers .*: give the numbers of inputs, hidden units and outputs"):
        parse_sizes(text)
