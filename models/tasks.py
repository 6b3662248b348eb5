"""Choose output size, last activation and loss of a head together, by its task.

Binary decisions, classes and numbers need different output sizes, activations and losses. `TASKS` lists the three for
each task. `choose_reading` returns those of a head and refuses any other combination: most of them run without an error
and learn something else than intended.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional

from shutterless.pipeline.examples.training import UNKNOWN_KIND


class TaskError(ValueError):
    """Output size, activation and loss that do not fit together; the message names those that do."""


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Parameters
    ----------
    name : str
        "binary", "multiclass" or "regression".
    labels : str
        Form of a label.
    outputs : str
        Number of outputs of a head.
    activation : str
        Function that turns outputs into reported values, a name in `ACTIVATIONS`. The losses contain it in a form that
        neither overflows nor rounds to 0, so a network ends with the linear layer before it.
    losses : tuple of str
        Names in `LOSSES`, the usual one first.
    reason : str
        Why these fit together.
    """

    name: str
    labels: str
    outputs: str
    activation: str
    losses: tuple[str, ...]
    reason: str


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="binary",
                labels="0 or 1",
                outputs="1",
                activation="sigmoid",
                losses=("binary cross-entropy",),
                reason="one log-odds gives both probabilities, which add up to 1",
            ),
            Task(
                name="multiclass",
                labels="number of the class, from 0",
                outputs="one per class",
                activation="softmax",
                losses=("cross-entropy",),
                reason="softmax makes the classes compete, and class numbers are names, not amounts",
            ),
            Task(
                name="regression",
                labels="a number; NaN where there is none",
                outputs="one per number",
                activation="identity",
                losses=("smooth L1", "mean squared error"),
                reason="a number may have any value, and the loss measures how far off it is",
            ),
        )
    }
)

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {"sigmoid": torch.sigmoid, "softmax": lambda outputs: outputs.softmax(-1), "identity": lambda outputs: outputs}
)


@dataclass(frozen=True)
class Reading:
    """A head's row of the table with its own sizes; `choose_reading` makes one.

    Parameters
    ----------
    task : Task
    n_outputs : int
    loss_name : str
        A name in `LOSSES`.
    beta : float
        Error at which the penalty of smooth L1 turns from quadratic to linear, in units of the label.
    """

    task: Task
    n_outputs: int
    loss_name: str
    beta: float = 1.0

    def layer(self, n_inputs: int) -> nn.Linear:
        """The last layer of a network for this reading."""
        return nn.Linear(n_inputs, self.n_outputs)

    def shape(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``(b, n)`` as the loss takes them: ``(b,)`` where there is one output."""
        return outputs.squeeze(-1) if self.n_outputs == 1 else outputs

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Reported values: a probability, probabilities of the classes, or the number itself."""
        return ACTIVATIONS[self.task.activation](outputs)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Mean loss of raw outputs (before the activation), shape (); with weights (b,) their weighted mean."""
        return LOSSES[self.loss_name](outputs, labels, self.beta, weight)


def choose_reading(
    task: str,
    *,
    n_classes: int | None = None,
    n_outputs: int | None = None,
    activation: str | None = None,
    loss: str | None = None,
    beta: float = 1.0,
) -> Reading:
    """Choose output size, activation and loss of a head by its task.

    Parameters
    ----------
    task : str
        A name in `TASKS`.
    n_classes : int, optional
        Number of classes; needed for "multiclass" unless ``n_outputs`` gives it.
    n_outputs, activation, loss : optional
        Values that the caller expects; those left out follow from the task.
    beta : float
        Of smooth L1, see `Reading`.

    Raises
    ------
    TaskError
        If a given value does not fit the task; the message names every wrong value and the right ones.
    """
    row = TASKS.get(task)
    if row is None:
        raise TaskError(f"unknown task {task!r}{_nearest(task, TASKS)}")
    wanted = _count_outputs(row, n_classes, n_outputs)
    problems = [
        *_wrong_classes(row, n_classes, wanted),
        *_wrong_outputs(row, n_classes, n_outputs, wanted),
        *_wrong_name("activation", activation, (row.activation,), ACTIVATIONS),
        *_wrong_name("loss", loss, row.losses, LOSSES),
    ]
    if problems:
        raise TaskError(f"{task}: {'; '.join(problems)}. {_what_goes_with(row, n_classes, wanted)}")
    return Reading(row, wanted, loss or row.losses[0], beta)


def _count_outputs(row: Task, n_classes: int | None, n_outputs: int | None) -> int:
    """Number of outputs that a head needs; 0 where it is unknown."""
    if row.name == "binary":
        return 1
    if row.name == "multiclass":
        return n_classes or n_outputs or 0
    return 1 if n_outputs is None else n_outputs


def _wrong_classes(row: Task, n_classes: int | None, wanted: int) -> list[str]:
    if row.name == "multiclass":
        if wanted == 0:
            return ["the number of classes is missing"]
        return ["softmax of one output is always 1"] if wanted == 1 else []
    if n_classes is None or (row.name == "binary" and n_classes == 2):
        return []
    return [f"{n_classes} classes are a task for multiclass, with {max(n_classes, 2)} outputs, softmax, cross-entropy"]


def _wrong_outputs(row: Task, n_classes: int | None, n_outputs: int | None, wanted: int) -> list[str]:
    if n_outputs is None or (n_outputs == wanted and n_outputs > 0):
        return []
    of = f" for {n_classes} classes" if row.name == "multiclass" and n_classes else ""
    return [f"{n_outputs} {'output' if n_outputs == 1 else 'outputs'}{of} instead of {max(wanted, 1)}"]


def _wrong_name(what: str, given: str | None, right: tuple[str, ...], known: Iterable[str]) -> list[str]:
    if given is None or given in right:
        return []
    if given not in set(known):
        return [f"unknown {what} {given!r}{_nearest(given, known)}"]
    return [f"{what} {given!r} does not go with it"]


def _what_goes_with(row: Task, n_classes: int | None, wanted: int) -> str:
    many = f"{wanted} outputs" if row.name == "multiclass" and wanted > 1 else f"outputs: {row.outputs}"
    losses = " or ".join(repr(name) for name in row.losses)
    return f"What goes with {row.name}: {many}, activation {row.activation!r}, loss {losses} ({row.reason})"


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known are {sorted(known)}"


def _weighted_mean(losses: torch.Tensor, counted: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Mean of the counted losses (b, ...), shape (); 0 where none counts."""
    share = counted.to(losses.dtype)
    if weight is not None:
        share = share * weight.view(-1, *[1] * (losses.ndim - 1))
    return (losses * share).sum() / share.sum().clamp(min=1 if weight is None else torch.finfo(losses.dtype).tiny)


def _binary_cross_entropy(
    outputs: torch.Tensor, labels: torch.Tensor, beta: float, weight: torch.Tensor | None
) -> torch.Tensor:
    if weight is None:
        return functional.binary_cross_entropy_with_logits(outputs, labels)
    losses = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    return _weighted_mean(losses, torch.ones_like(losses), weight)


def _cross_entropy(
    outputs: torch.Tensor, labels: torch.Tensor, beta: float, weight: torch.Tensor | None
) -> torch.Tensor:
    if weight is None:
        return functional.cross_entropy(outputs, labels)
    losses = functional.cross_entropy(outputs, labels, reduction="none", ignore_index=UNKNOWN_KIND)
    return _weighted_mean(losses, labels != UNKNOWN_KIND, weight)


def _squared_error(
    outputs: torch.Tensor, labels: torch.Tensor, beta: float, weight: torch.Tensor | None
) -> torch.Tensor:
    labelled = labels.isfinite()
    return _weighted_mean((outputs - labels.where(labelled, outputs.detach())) ** 2, labelled, weight)


def mean_error(
    outputs: torch.Tensor, labels: torch.Tensor, beta: float, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth L1 averaged over the labels that are finite; 0 without any."""
    labelled = labels.isfinite()
    # NaN labels are replaced before the difference: the gradient NaN × 0 would still be NaN
    error = functional.smooth_l1_loss(outputs, labels.where(labelled, outputs.detach()), beta=beta, reduction="none")
    return _weighted_mean(error, labelled, weight)


LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, float, torch.Tensor | None], torch.Tensor]] = (
    MappingProxyType(
        {
            "binary cross-entropy": _binary_cross_entropy,
            "cross-entropy": _cross_entropy,
            "smooth L1": mean_error,
            "mean squared error": _squared_error,
        }
    )
)
