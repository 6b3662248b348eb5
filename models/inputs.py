"""Scale a `StripBatch` to the inputs of a network; the base class of all detectors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging as transformers_logging

from shutterless.models.configuration import DetectorConfig
from shutterless.models.folder_readme import NETWORK_USE, SEARCH_USE, write_readme
from shutterless.models.outputs import DetectorHead, DetectorOutput, detector_loss
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.files import give_umask_rights
from shutterless.pipeline.tokens import STAGE1_FEATURES, GridError, StripBatch, TokenGrid

# Residuals up to 5σ pass nearly unchanged, so that noise stays Gaussian; a cosmic ray of 1000σ becomes 30.
RESIDUAL_SOFTNESS = 5.0
LARGEST_INPUT = 1e6
N_BINS = 16  # of the piecewise linear encoding of a number


class FeatureError(ValueError):
    """Stage-1 features that a model was not trained with."""


@dataclass
class ModelInputs:
    """Scaled inputs of ``b`` strips."""

    patches: torch.Tensor  # (b, n, d)
    context: torch.Tensor  # (b, n, r)
    profile: torch.Tensor  # (b, y x)
    features: torch.Tensor  # (b, f)
    mask: torch.Tensor  # (b, n)
    surroundings: torch.Tensor | None = None  # (b, e), encoded numbers of the trigger's context


def compress(values: torch.Tensor, softness: float) -> torch.Tensor:
    """Linear below `softness`, logarithmic above; NaN becomes 0 and infinity a large number."""
    values = torch.nan_to_num(values, nan=0.0, posinf=LARGEST_INPUT, neginf=-LARGEST_INPUT)
    return softness * torch.asinh(values / softness)


class InputScaling(nn.Module):
    """Scale of the inputs. It is part of the weights, so a saved model is complete.

    Residuals and row context are already in units of σ. The static profile and the stage-1 features are compressed and
    then brought to mean 0 and variance 1 over the training strips. The profile has one centre and one scale for all
    columns, so that a mirrored strip is scaled like the original.
    """

    profile_centre: torch.Tensor  # (1,)
    profile_scale: torch.Tensor  # (1,)
    feature_centre: torch.Tensor  # (f,)
    feature_scale: torch.Tensor  # (f,)

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("profile_centre", torch.zeros(1))
        self.register_buffer("profile_scale", torch.ones(1))
        self.register_buffer("feature_centre", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))

    @torch.no_grad()
    def fit(self, strips: StripBatch) -> None:
        """Compute centre and scale of profile and features from training strips."""
        profile = compress(_tensor(strips.profile), 1.0).double().reshape(-1, 1)
        features = compress(_tensor(strips.features), 1.0).double()
        for name, values in (("profile", profile), ("feature", features)):
            spread = values.std(0, correction=0)
            getattr(self, f"{name}_centre").copy_(values.mean(0))
            # a feature that never changes is only centred
            getattr(self, f"{name}_scale").copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(
        self,
        patches: torch.Tensor,
        context: torch.Tensor,
        profile: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor,
    ) -> ModelInputs:
        """Scale all inputs; masked values become 0."""
        mask = mask.bool()
        valid = mask.unsqueeze(-1)
        return ModelInputs(
            patches=compress(patches, RESIDUAL_SOFTNESS).masked_fill(~valid, 0.0),
            context=compress(context, RESIDUAL_SOFTNESS).masked_fill(~valid, 0.0),
            profile=(compress(profile, 1.0) - self.profile_centre) / self.profile_scale,
            features=(compress(features, 1.0) - self.feature_centre) / self.feature_scale,
            mask=mask,
        )


def number_encoding_size(n_numbers: int) -> int:
    """Numbers that `NumberEncoding` makes of some numbers."""
    return n_numbers * (N_BINS + 1)


class NumberEncoding(nn.Module):
    """Piecewise linear encoding of numbers (Gorishniy et al. 2022, arXiv:2203.05556, section 3.2).

    Each number becomes `N_BINS` numbers between 0 and 1, which say how much of each bin lies below it; the edges of the
    bins are quantiles of the training examples. So a network bends its answer at any value, as a tree does. A number
    that is not known is 0 in all bins, and one more number says that it is known.
    """

    edges: torch.Tensor  # (c, N_BINS + 1)

    def __init__(self, n_numbers: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(0, 1, N_BINS + 1).repeat(n_numbers, 1))

    @torch.no_grad()
    def fit(self, numbers: torch.Tensor) -> None:
        """Set the edges to quantiles of training numbers (n, c)."""
        at = np.linspace(0, 1, N_BINS + 1)
        for k, column in enumerate(numbers.double().numpy().T):
            known = column[np.isfinite(column)]
            edges = np.quantile(known, at) if len(known) else at
            self.edges[k] = torch.from_numpy(edges)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Encode numbers (b, c) as (b, e), `number_encoding_size`."""
        known = torch.isfinite(numbers)
        value = torch.where(known, numbers, 0.0).unsqueeze(-1)
        low, high = self.edges[:, :-1], self.edges[:, 1:]
        # a bin without a width, where many examples agree, is a step
        share = torch.where(high > low, (value - low) / (high - low).clamp(min=1e-12), (value > low).to(value.dtype))
        encoded = share.clamp(0, 1) * known.unsqueeze(-1)
        return torch.cat([encoded.flatten(1), known.to(encoded.dtype)], -1)


class DetectorModel(PreTrainedModel):
    """Base of all families; a family only defines how a strip becomes one vector (`summarise`)."""

    config_class = DetectorConfig
    main_input_name = "patches"
    sees_context: ClassVar[bool] = False  # of its own; a combined detector gives it the context of the triggers
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: DetectorConfig, summary_size: int) -> None:
        super().__init__(config)
        n_features, n_kinds = len(config.feature_names or ()), len(config.kinds or ())
        self.scaling = InputScaling(n_features)
        if config.context_names:
            self.encoding = NumberEncoding(len(config.context_names))
        self.head = DetectorHead(summary_size, n_features, n_kinds)

    @property
    def grid(self) -> TokenGrid:
        """The grid that strips must be cut with."""
        return self.config.token_grid

    def check_features(self) -> None:
        """Refuse a model made for other stage-1 features than stage 1 computes now, even if their number agrees."""
        if tuple(self.config.feature_names) != STAGE1_FEATURES:
            raise FeatureError(
                f"the model was trained with features {list(self.config.feature_names)}, but stage 1 computes "
                f"{list(STAGE1_FEATURES)}: retrain, or use the version of the package that made the model"
            )

    def check_numbers(self, numbers: np.ndarray | None) -> None:
        """Refuse strips without the context that the model was trained with, and any for a model of strips alone."""
        names = tuple(self.config.context_names)
        if not names and numbers is not None:
            raise FeatureError("the model sees strips alone; score them without the context of their triggers")
        if not names:
            return
        if numbers is None:
            raise FeatureError(
                "the model sees the context of a trigger beside its strip, and none is given; it scores triggers of "
                "frames (shutterless search, evaluate) and no strips alone"
            )
        if names != CONTEXT_FEATURES or numbers.shape[1] != len(names):
            raise FeatureError(
                f"the model was trained with the context {list(names)}, but {numbers.shape[1]} numbers of "
                f"{list(CONTEXT_FEATURES)} are given: retrain, or use the version of the package that made the model"
            )

    @classmethod
    def from_pretrained(cls, folder: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a saved model; weights are read from safetensors only, never from a pickle."""
        kwargs.setdefault("use_safetensors", True)
        with no_progress_bars():
            model = super().from_pretrained(folder, *args, **kwargs)
        # safetensors leaves weights where they lie in the file; matrix products of unaligned memory take another code
        # path and differ in the last digit from those of the saved model
        for weights in (*model.parameters(), *model.buffers()):
            weights.data = weights.data.clone()
        return model

    def save_pretrained(self, folder: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Write ``config.json``, ``model.safetensors`` and ``README.md``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._write_readme(folder)  # first, since the parent may upload the folder
        with no_progress_bars():
            saved = super().save_pretrained(folder, *args, **kwargs)
        for weights in Path(folder).glob("*.safetensors"):
            give_umask_rights(weights)
        return saved

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        commit_message: str = "Upload a detector",
        revision: str | None = None,
        create_pr: bool = False,
    ) -> Any:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face Hub, which is made if it is absent.

        The method of `transformers` would replace ``README.md``. Parameters are as there. For the false-alarm curve,
        too, upload the whole folder: ``hf upload NAME FOLDER``.
        """
        hub = HfApi(token=token)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=revision,
                create_pr=create_pr,
            )  # fmt: skip

    def _write_readme(self, folder: Any) -> None:
        config, grid = self.config, self.grid
        facts = {
            "strip": f"{grid.n_y} × {grid.n_columns} × {grid.n_rows} (y, x, t), rows binned by {list(grid.bins)}",
            "kinds": ", ".join(config.kinds or ()),
            **{name: getattr(config, name) for name in config.arch_names()},
            **{f"training: {name}": value for name, value in (config.training or {}).items()},
        }
        family = config.model_type.removeprefix("shutterless-")
        write_readme(folder, family, f"{self.num_parameters():,} parameters", facts, SEARCH_USE + NETWORK_USE)

    def summarise(self, inputs: ModelInputs) -> torch.Tensor:
        """Map scaled inputs to one vector per strip, shape (b, h)."""
        raise NotImplementedError(f"{type(self).__name__} does not define how a strip becomes one vector (summarise)")

    def forward(
        self,
        patches: torch.Tensor,
        context: torch.Tensor,
        profile: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor,
        numbers: torch.Tensor | None = None,
        is_event: torch.Tensor | None = None,
        kind: torch.Tensor | None = None,
        onset: torch.Tensor | None = None,
        log2_duration: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
    ) -> DetectorOutput:
        """Score strips: inputs as in `StripBatch`, labels as in `detector_loss` (no loss without ``is_event``)."""
        self._check_shapes(patches, context, profile, features, mask)
        inputs = self.scaling(patches, context, profile, features, mask)
        if self.config.context_names:
            assert numbers is not None
            inputs.surroundings = self.encoding(numbers)
        output = self.head(self.summarise(inputs), inputs.features)
        if is_event is not None:
            weights = self.config.loss_weights
            output.loss = detector_loss(output, is_event, kind, onset, log2_duration, weight, weights=weights)
        return output

    def _check_shapes(self, *tensors: torch.Tensor) -> None:
        """Refuse inputs that were cut with another grid or have another number of features."""
        grid, n_features = self.grid, len(self.config.feature_names)
        expected = {
            "patches": (grid.n_tokens, grid.patch_size),
            "context": (grid.n_tokens, grid.patch_rows),
            "profile": (grid.profile_size,),
            "features": (n_features,),
            "mask": (grid.n_tokens,),
        }
        for (name, shape), tensor in zip(expected.items(), tensors, strict=True):
            if tuple(tensor.shape[1:]) != shape:
                raise GridError(
                    f"{name} of shape {tuple(tensor.shape)} do not fit the model, which expects (b, *{shape}) for "
                    f"{grid} and {n_features} features; cut the strips with the model's grid or retrain"
                )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights with variance 1 / inputs, so that every layer keeps the scale of its input."""
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            fan_in = module.weight[0].numel()
            init.normal_(module.weight, mean=0.0, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bar, which is useless for one small file."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _tensor(values: np.ndarray) -> torch.Tensor:
    """View an array as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
