"""Measure strips per second of training and scoring: each family, a plain torch loop, PatchTST and ViT.

    python benchmarks/training.py
    python benchmarks/training.py --quick

Training: the Trainer of `shutterless.models.training.fit` as `shutterless train` runs it (mirrored strips, clipped
gradients, a falling rate, history) against a plain loop without these. The loop has the same model, loss, batch size,
number of steps and fused AdamW on tensors in memory. PatchTST (channels = columns) and ViT (image = strip) of
`transformers` have the width, depth, heads, dropout and patches of our transformer, a feed-forward part that
compensates the difference in parameters, and a linear layer to the event logit only. All models take turns after every
step, so that a change of the machine's speed affects all alike; errors are those of the ratios in blocks of steps.

Scoring: batches take turns as well, in float32, with bfloat16 autocast, with dynamically quantised linear layers
(int8), and, if onnx and onnxruntime are installed, with them in float32 and int8, with one thread and with two. The
largest difference of the event logit from float32 is printed too. Weights are those of the training before, or of the
bundled model for its family. Both parts are repeated on a GPU if there is one.

Strips are drawn with injected events from a store that is simulated and calibrated in a temporary folder, and repeated
until an epoch is about as long as usual: speed depends only on their shape, differences of logits on their pixels.

Training is timed with one thread unless --threads asks for more. If other programs use the cores, two threads wait for
each other at the end of every operation and are slower than one, ten times slower if they wait busily;
OMP_WAIT_POLICY=PASSIVE in the environment lets them sleep instead.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    PatchTSTConfig,
    PatchTSTForClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

from shutterless.models.configuration import TransformerConfig
from shutterless.models.dataset import LABEL_NAMES, labels_to_tensors, strips_to_tensors
from shutterless.models.describe import count_parameters
from shutterless.models.families import FAMILIES, build_model, family_of, load_model
from shutterless.models.training.fit import fit_model
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.examples.training import TrainingSet
from shutterless.pipeline.tokens import StripBatch, TokenGrid, unpatchify
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.settings.settings import load_scene, load_settings
from shutterless.workflows.tracking.tracking import bundled_folder
from shutterless.workflows.training.train import draw_training_set

INPUT_NAMES = [f.name for f in fields(StripBatch)]
WARM_UP_STEPS = 3
BLOCKS = 5  # blocks of steps; the error is their scatter
FEWEST_BATCHES, MOST_BATCHES = 2, 16
EVERY = {"PatchTST": 5}  # steps between two turns of a slow model
OURS, PLAIN = "shutterless", "plain loop"
FLOAT = "float32"
COLUMNS = [
    "part", "device", "threads", "model", "parameters", "how", "strips_per_s", "ratio", "error", "logit_difference",
]  # fmt: skip
Step = Callable[[], None]


@dataclass(frozen=True)
class Sizes:
    """Numbers of strips, steps and seconds.

    Parameters
    ----------
    n_examples : int
        Number of strips that are drawn.
    n_strips : int
        Strips of the training set: the drawn ones, repeated.
    steps : tuple of (str, int)
        Steps of training of each family.
    scoring_s : float
        Seconds after which no further batch of a model is scored, summed over all scorers.
    batch_size : int
        Strips in a batch of scoring.
    """

    n_examples: int = 2400
    n_strips: int = 8192
    steps: tuple[tuple[str, int], ...] = (("transformer", 30), ("cnn", 60), ("mlp", 400))
    scoring_s: float = 6.0
    batch_size: int = 256


QUICK = Sizes(300, 2048, (("transformer", 5), ("cnn", 10), ("mlp", 80)), 0.5, 64)


class Rival(nn.Module):
    """An encoder of `transformers` with a linear layer to the event logit; its input is only the residuals."""

    def __init__(self, network: nn.Module, shape: str) -> None:
        super().__init__()
        self.network = network
        self.shape = shape

    def forward(self, strip: torch.Tensor) -> torch.Tensor:
        """Event logit (b,) of strips (b, 1, x, t)."""
        if self.shape == "series":
            return self.network(past_values=strip[:, 0].transpose(1, 2)).prediction_logits[:, 0]
        return self.network(pixel_values=strip).logits[:, 0]


def build_patchtst(grid: TokenGrid, mlp_size: int) -> Rival:
    """PatchTST with every column as a channel; patches do not overlap."""
    own = TransformerConfig()
    config = PatchTSTConfig(
        num_input_channels=grid.n_columns,
        context_length=grid.n_rows,
        patch_length=grid.patch_rows,
        patch_stride=grid.patch_rows,
        num_hidden_layers=own.n_layers,
        d_model=own.hidden_size,
        num_attention_heads=own.n_heads,
        ffn_dim=mlp_size,
        attention_dropout=own.dropout,
        ff_dropout=own.dropout,
        scaling=None,  # strips are in units of σ already
        num_targets=1,
    )
    return Rival(PatchTSTForClassification(config), "series")


def build_vit(grid: TokenGrid, mlp_size: int) -> Rival:
    """ViT with the strip as an image of one channel and patches that span all columns, like ours."""
    own = TransformerConfig()
    config = ViTConfig(
        image_size=(grid.n_columns, grid.n_rows),
        patch_size=(grid.n_columns, grid.patch_rows),
        num_channels=1,
        hidden_size=own.hidden_size,
        num_hidden_layers=own.n_layers,
        num_attention_heads=own.n_heads,
        intermediate_size=mlp_size,
        hidden_dropout_prob=own.dropout,
        attention_probs_dropout_prob=own.dropout,
        num_labels=1,  # type: ignore[call-arg]
    )
    return Rival(ViTForImageClassification(config), "image")


RIVALS: dict[str, Callable[[TokenGrid, int], Rival]] = {"PatchTST": build_patchtst, "ViT": build_vit}


def of_equal_size(build: Callable[[TokenGrid, int], Rival], grid: TokenGrid, n_parameters: int) -> Rival:
    """A rival whose feed-forward width gives about ``n_parameters`` parameters (they grow linearly with it)."""
    narrow, wide = (count_parameters(build(grid, width)) for width in (64, 65))
    rival = build(grid, max(64 + round((n_parameters - narrow) / (wide - narrow)), 1)).eval()
    assert abs(count_parameters(rival) / n_parameters - 1) < 0.05
    return rival


def draw_strips(n_examples: int, seed: int) -> TrainingSet:
    """Training strips of one simulated and calibrated CCD, the last fifth of each amplifier for validation."""
    overrides = [f"train.n_examples={n_examples}", "train.split=time", f"train.seed={seed}"]
    settings, executor = load_settings(None, overrides), SerialExecutor()
    scene = load_scene({"sequence": "speed", "seed": seed, "ccds": [1], "rows": 6000, "events": 0})
    with tempfile.TemporaryDirectory() as folder:
        files = simulate_scene(scene, Path(folder) / "frames", executor=executor).files
        ingest_files(files, Path(folder) / "store", executor=executor)
        return draw_training_set(Path(folder) / "store", settings.train, executor=executor)


def repeated(training_set: TrainingSet, n_strips: int) -> TrainingSet:
    """``n_strips`` strips: the drawn ones, repeated in an order that mixes amplifiers."""
    index = np.random.default_rng(0).permutation(n_strips) % len(training_set)
    return training_set[index]


class TakingTurns(TrainerCallback):
    """Time every step of the Trainer, from the end of the one before, and let each rival do one after it.

    Fetching a batch, logging and the callbacks belong to a step; validation at the end of an epoch does not.
    """

    def __init__(self, rivals: dict[str, Step], wait: Step) -> None:
        self.rivals, self.wait = rivals, wait
        self.seconds: list[list[float]] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, let the others do a step, and start it again."""
        self.wait()
        step = [time.perf_counter() - self.started]
        for name, rival in self.rivals.items():
            its_turn = len(self.seconds) % EVERY.get(name, 1) == 0
            step.append(timed(rival, self.wait) if its_turn else np.nan)
        self.seconds.append(step)
        self.started = time.perf_counter()


def timed(work: Step, wait: Step) -> float:
    """Seconds until the device has finished some work."""
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def plain_loop(model: nn.Module, settings: TrainingSettings, n: int, loss: Callable[..., torch.Tensor]) -> Step:
    """One step of a plain training loop over shuffled batches; ``loss(model, index)`` is the loss of a batch."""
    model.train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield from (part for part in torch.randperm(n).split(settings.batch_size))

    indices = batches()

    def step() -> None:
        optimiser.zero_grad()
        loss(model, next(indices)).backward()
        optimiser.step()

    return step


def own_loss(tensors: dict[str, torch.Tensor], device: str) -> Callable[..., torch.Tensor]:
    """Loss of one of our models, all four terms."""
    return lambda model, index: model(**{name: values[index].to(device) for name, values in tensors.items()}).loss


def event_loss(strips: torch.Tensor, is_event: torch.Tensor, device: str) -> Callable[..., torch.Tensor]:
    """Loss of a rival: that of the event decision."""

    def loss(model: nn.Module, index: torch.Tensor) -> torch.Tensor:
        logit = model(strips[index].to(device))
        return functional.binary_cross_entropy_with_logits(logit, is_event[index].to(device))

    return loss


def as_images(strips: StripBatch, grid: TokenGrid) -> torch.Tensor:
    """Residuals (b, 1, x, t) with clipped tails, for networks that do not scale their inputs."""
    return torch.from_numpy(np.clip(unpatchify(strips.patches, grid), -30, 30))


def time_training(
    family: str, steps: int, training_set: TrainingSet, device: str, seed: int
) -> tuple[dict[str, nn.Module], list[dict[str, Any]]]:
    """Train a family with its rivals taking turns; the trained models and rows of the table."""
    settings = TrainingSettings(seed=seed, epochs=10_000, max_steps=steps + WARM_UP_STEPS, device=device)
    groups = np.unique(training_set.groups)
    validation = groups[len(groups) // 2 :]
    chosen = np.flatnonzero(~np.isin(training_set.groups, validation))
    strips, labels = training_set.strips[chosen], labels_to_tensors(training_set.labels)
    tensors = {**strips_to_tensors(strips), **{name: labels[name][chosen] for name in LABEL_NAMES}}
    models: dict[str, nn.Module] = {PLAIN: build_model(family, training_set.grid, seed=seed)}
    losses = {PLAIN: own_loss(tensors, device)}
    if family == "transformer":
        rival_loss = event_loss(as_images(strips, training_set.grid), tensors["is_event"], device)
        for name, build in RIVALS.items():
            models[name] = of_equal_size(build, training_set.grid, count_parameters(models[PLAIN]))
            losses[name] = rival_loss
    loops = {name: plain_loop(model.to(device), settings, len(chosen), losses[name]) for name, model in models.items()}
    turns = TakingTurns(loops, wait_for(device))
    started = time.perf_counter()
    result = fit_model(
        build_model(family, training_set.grid, seed=seed), training_set, settings,
        validation_groups=validation.tolist(), callbacks=[turns],
    )  # fmt: skip
    beside = time.perf_counter() - started - float(np.nansum(turns.seconds))
    print(f"{family} on {device}: {beside:.1f} s of set-up and validation besides {steps} steps", flush=True)
    seconds = np.array(turns.seconds)[WARM_UP_STEPS:]
    rows = []
    for i, (name, model) in enumerate({OURS: result.model, **models}.items()):
        ratio, error = ratio_of(seconds[:, 1], seconds[:, i])
        rows.append({
            "part": "training", "device": device, "threads": torch.get_num_threads(),
            "model": name if name in RIVALS else family, "parameters": count_parameters(model),
            "how": PLAIN if name in RIVALS else name, "strips_per_s": settings.batch_size / np.nanmean(seconds[:, i]),
            "ratio": ratio, "error": error,
        })  # fmt: skip
    rivals = {name: model.cpu().eval() for name, model in models.items() if name in RIVALS}
    return {family: result.model, **rivals}, rows


def ratio_of(reference: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Ratio of the speed to that of the reference, timed in turns, and the standard error from blocks of turns."""
    both = np.isfinite(seconds)
    reference, seconds = reference[both], seconds[both]
    parts = zip(np.array_split(reference, BLOCKS), np.array_split(seconds, BLOCKS), strict=True)
    blocks = [a.sum() / b.sum() for a, b in parts if len(a)]
    error = np.std(blocks, ddof=1) / len(blocks) ** 0.5 if len(blocks) > 1 else np.nan
    return float(reference.sum() / seconds.sum()), float(error)


def wait_for(device: str) -> Step:
    """Function that waits until a device is done."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


@contextmanager
def n_threads(n: int) -> Iterator[None]:
    """Compute with ``n`` threads, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class EventLogit(nn.Module):
    """One of our models from tensors to the event logit, as an exporter needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Event logit (b,) of the tensors of a `StripBatch`."""
        return self.model(**dict(zip(INPUT_NAMES, tensors, strict=True))).event_logit


Scorer = Callable[[tuple[torch.Tensor, ...]], np.ndarray]


def torch_scorer(model: nn.Module, device: str, half: bool = False) -> Scorer:
    """Score in torch, in float32 or with bfloat16 autocast."""
    model = model.to(device)

    def score(inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16) if half else nullcontext():
            return model(*(values.to(device) for values in inputs)).float().cpu().numpy()

    return score


def quantised(model: nn.Module) -> nn.Module:
    """Model with int8 weights in linear layers; every batch sets the scale of their inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated in favour of torchao
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def onnx_scorers(model: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int) -> dict[str, Scorer]:
    """Score in onnxruntime, in float32 and with dynamic int8; no scorer if it or the exporter is not installed."""
    if not all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        return {}
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    scorers: dict[str, Scorer] = {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        paths = {how: f"{folder}/{how}.onnx" for how in (FLOAT, "prepared", "int8")}
        torch.onnx.export(model, inputs, paths[FLOAT], dynamo=True, external_data=False)
        quant_pre_process(paths[FLOAT], paths["prepared"], skip_symbolic_shape=True)
        quantize_dynamic(paths["prepared"], paths["int8"], weight_type=QuantType.QInt8)
        for how in (FLOAT, "int8"):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(paths[how], options, providers=["CPUExecutionProvider"])
            scorers[f"onnx {how}"] = partial(run_session, session)
    return scorers


def run_session(session: Any, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
    """Event logit of an exported model."""
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: values.numpy() for name, values in zip(names, inputs, strict=True)})[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages of exporters."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def time_scoring(
    name: str, model: nn.Module, batches: list[tuple[torch.Tensor, ...]], device: str, threads: int, limit_s: float
) -> list[dict[str, Any]]:
    """Score the same batches with every scorer in turn until the time is up; return rows of the table."""
    scorers = {FLOAT: torch_scorer(model, device), "bfloat16": torch_scorer(model, device, half=True)}
    if device == "cpu":
        scorers["int8"] = torch_scorer(quantised(model), device)
        scorers |= onnx_scorers(model, batches[0], threads)
    for score in scorers.values():
        score(batches[0])
    seconds: list[list[float]] = []
    logits: list[list[np.ndarray]] = []
    for batch in batches:
        if len(seconds) >= FEWEST_BATCHES and np.sum(seconds) > limit_s:
            break
        seconds.append([])
        logits.append([])
        for score in scorers.values():
            started = time.perf_counter()
            logits[-1].append(score(batch))  # on the CPU, so the device has finished
            seconds[-1].append(time.perf_counter() - started)
    taken, found = np.array(seconds), np.array(logits)  # (batch, way), (batch, way, b)
    rows = []
    for j, how in enumerate(scorers):
        ratio, error = ratio_of(taken[:, 0], taken[:, j])
        rows.append({
            "part": "scoring", "device": device, "threads": threads, "model": name,
            "parameters": count_parameters(model), "how": how, "strips_per_s": found[:, j].size / taken[:, j].sum(),
            "ratio": ratio, "error": error, "logit_difference": float(np.abs(found[:, j] - found[:, 0]).max()),
        })  # fmt: skip
    return rows


def scoring_batches(
    training_set: TrainingSet, sizes: Sizes
) -> tuple[list[tuple[torch.Tensor, ...]], list[tuple[torch.Tensor, ...]]]:
    """Batches of strips as inputs of our models and of the rivals."""
    size = sizes.batch_size
    strips = training_set.strips[: MOST_BATCHES * size]
    ours, images = strips_to_tensors(strips), as_images(strips, training_set.grid)
    slices = [slice(start, start + size) for start in range(0, len(strips), size)]
    return [tuple(ours[name][s] for name in INPUT_NAMES) for s in slices], [(images[s],) for s in slices]


def measure(sizes: Sizes | None = None, seed: int = 1, threads: int = 1) -> pd.DataFrame:
    """Measure everything; ``threads`` are those of training on the CPU.

    Returns
    -------
    DataFrame
        ``part`` ("training" or "scoring"), ``device``, ``threads``, ``model``, ``parameters``, ``how``,
        ``strips_per_s``, ``ratio`` of the speed to the plain loop in the same turns (training) or to float32 (scoring)
        with its standard ``error``, ``logit_difference`` (scoring: the largest from float32).
    """
    sizes = sizes or Sizes()
    started = time.perf_counter()
    drawn = draw_strips(sizes.n_examples, seed)
    print(f"{len(drawn)} strips of {drawn.grid} drawn in {time.perf_counter() - started:.0f} s", flush=True)
    training_set = repeated(drawn, sizes.n_strips)
    ours, images = scoring_batches(training_set, sizes)
    bundled = load_model(bundled_folder() / "transformer")
    rows: list[dict[str, Any]] = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        trained: dict[str, nn.Module] = {}
        for family, steps in sizes.steps:
            with n_threads(threads):
                models, timings = time_training(family, steps, training_set, device, seed)
            trained |= models
            rows += timings
        if bundled.grid == training_set.grid:
            trained[family_of(bundled)] = bundled
        for name, model in trained.items():
            wrapped: nn.Module = EventLogit(model).eval() if name in FAMILIES else model.eval()
            batches = ours if name in FAMILIES else images
            for n in (1, 2) if device == "cpu" else (1,):
                with n_threads(n):
                    rows += time_scoring(name, wrapped, batches, device, n, sizes.scoring_s)
            wrapped.cpu()
    return pd.DataFrame(rows, columns=COLUMNS)


def print_tables(table: pd.DataFrame) -> None:
    """Print both parts."""
    columns = ["device", "threads", "model", "parameters", "how", "strips_per_s", "ratio", "error"]
    formats = {"strips_per_s": "{:,.0f}".format, "ratio": "{:.3f}".format, "error": "{:.3f}".format,
               "logit_difference": "{:.1e}".format, "parameters": "{:,}".format}  # fmt: skip
    print("\ntraining: ratio of the speed to the plain loop in the same turns")
    print(table.query("part == 'training'")[columns].to_string(index=False, formatters=formats))
    print("\nscoring: ratio of the speed to float32 in the same turns; largest difference of the event logit from it")
    columns = [*columns, "logit_difference"]
    print(table.query("part == 'scoring'")[columns].to_string(index=False, formatters=formats))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tens of seconds instead of minutes, with larger errors")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of training on the CPU")
    arguments = parser.parse_args()
    print_tables(measure(QUICK if arguments.quick else Sizes(), arguments.seed, arguments.threads))
    if not torch.cuda.is_available():
        print("\nno GPU was found: everything above is of the CPU")
    if not all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        print("onnx, onnxruntime or onnxscript is not installed: not measured")


if __name__ == "__main__":
    main()
