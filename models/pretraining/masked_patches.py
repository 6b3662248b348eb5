"""Masked-patch model: the transformer's encoder with a decoder that predicts hidden patches.

Devlin et al. 2019 (BERT, arXiv:1810.04805) hide words; He et al. 2022 (MAE, arXiv:2111.06377) hide patches. As in BERT,
a learned embedding replaces hidden tokens, so that the encoder receives as many tokens as in a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME

from shutterless.models.configuration import TransformerConfig
from shutterless.models.families import ModelError, build_model
from shutterless.models.folder_readme import write_readme
from shutterless.models.inputs import InputScaling, ModelInputs
from shutterless.models.pretraining.settings import Masking
from shutterless.models.transformer import StripEncoder, TransformerDetector
from shutterless.pipeline.files import give_umask_rights
from shutterless.pipeline.stored_files import read_json, refuse_pickles
from shutterless.pipeline.tokens import STAGE1_FEATURES, TokenGrid, check_same_grid

ENCODER_PARTS = ("scaling", "embed_patch", "embed_static", "encoder")
VISIBLE_FEATURE = "log2_bin"  # the others were measured on pixels that may be hidden
_CONFIG = "config.json"
_USE = "```sh\nshutterless train STORE --init FOLDER\n```\n"


class PretrainedError(ModelError):
    """A pretrained encoder that cannot be loaded, or from which a model cannot start."""


class MaskedPatchConfig(TransformerConfig):
    """Sizes of the encoder, as in `TransformerConfig`, and the masking of its pretraining.

    Parameters
    ----------
    masking : dict
        Fields of the `Masking` of the pretraining; `token_masking` returns the `Masking`.
    """

    model_type = "shutterless-masked-patches"

    masking: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.masking = asdict(self.token_masking)
        super().__post_init__(**kwargs)

    @property
    def token_masking(self) -> Masking:
        """The masking of the pretraining."""
        return Masking(**(self.masking or {}))

    def architecture(self) -> dict[str, Any]:
        """Hyperparameters that a detector must share to start from the encoder; dropout may differ."""
        return {name: getattr(self, name) for name in TransformerConfig.arch_names() if name != "dropout"}


@dataclass
class MaskedPatchOutput:
    """Predictions for ``b`` strips, in compressed σ (`shutterless.models.inputs.compress`).

    Parameters
    ----------
    predicted : tensor, shape (b, n, d)
        Decoder output for every patch; only hidden ones are predictions.
    target : tensor, shape (b, n, d)
        The patches themselves.
    live : tensor of bool, shape (b, n, d)
        Pixels that were hidden and are valid.
    """

    predicted: torch.Tensor
    target: torch.Tensor
    live: torch.Tensor

    def squared_errors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the hidden valid pixels of each patch, (b, n): of the prediction, and of predicting 0."""
        error = ((self.predicted - self.target).square() * self.live).sum(-1)
        return error, (self.target.square() * self.live).sum(-1)

    @property
    def loss(self) -> torch.Tensor:
        """Mean squared error of the hidden valid pixels (compressed σ²)."""
        return self.squared_errors()[0].sum() / self.live.sum().clamp(min=1)


class MaskedPatchModel(StripEncoder):
    """Encoder, the embedding of hidden patches, and a decoder of two layers.

    The model receives neither the pixels of a hidden patch nor its row context, which holds what its columns share. It
    receives the other patches, and token 0 with the static profile (a median over thousands of rows) and the binning
    factor. The other stage-1 features are always hidden. The decoder starts at 0, the best prediction of white noise.
    """

    def __init__(self, config: MaskedPatchConfig) -> None:
        super().__init__()
        names, hidden = list(config.feature_names or ()), config.hidden_size
        self.config = config
        self.scaling = InputScaling(len(names))
        self.add_encoder(config)
        self.hidden_patch = nn.Parameter(torch.randn(hidden))
        self.decoder = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, config.token_grid.patch_size)
        )
        for values in self.decoder[-1].parameters():
            nn.init.zeros_(values)
        visible = torch.tensor([float(name == VISIBLE_FEATURE) for name in names])
        self.register_buffer("visible_features", visible, persistent=False)

    @property
    def grid(self) -> TokenGrid:
        """The grid that strips must be cut with."""
        return self.config.token_grid

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.hidden_patch.device

    def visible(self, tensors: Mapping[str, torch.Tensor]) -> ModelInputs:
        """Scale the tensors of a `StripBatch` and hide its stage-1 features, except the binning factor."""
        inputs = self.scaling(**tensors)
        inputs.features = inputs.features * self.visible_features
        return inputs

    def forward(self, hidden: torch.Tensor, **tensors: torch.Tensor) -> MaskedPatchOutput:
        """Predict the patches that are ``hidden`` (b, n) from the rest of the tensors of a `StripBatch`."""
        inputs = self.visible(tensors)
        encoded = self.encode(inputs, hidden, self.hidden_patch)
        live = live_pixels(tensors["patches"], inputs.mask) & hidden.unsqueeze(-1)
        return MaskedPatchOutput(self.decoder(encoded[:, 1:]), inputs.patches, live)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``README.md``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        weights = {name: values.detach().cpu().contiguous() for name, values in self.state_dict().items()}
        save_file(weights, folder / SAFE_WEIGHTS_NAME)
        give_umask_rights(folder / SAFE_WEIGHTS_NAME)
        size = f"{sum(values.numel() for values in weights.values()):,} numbers"
        write_readme(folder, "pretrained-encoder", size, self.config.architecture(), _USE)


def live_pixels(patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Valid pixels (b, n, d): `StripBatch` has 0 for masked pixels, and no other pixel is exactly 0."""
    return (patches != 0) & patches.isfinite() & mask.bool().unsqueeze(-1)


def build_masked_model(
    grid: TokenGrid | None = None,
    arch: Mapping[str, Any] | None = None,
    masking: Masking | None = None,
    *,
    seed: int = 0,
) -> MaskedPatchModel:
    """Build a model whose encoder has the random weights of ``build_model("transformer", grid, arch, seed=seed)``.

    Parameters
    ----------
    grid : TokenGrid, optional
    arch : mapping, optional
        Hyperparameters of the transformer that differ from its defaults.
    masking : Masking, optional
    seed : int
        Fixes the weights. The caller's own random state is left as it was.
    """
    detector = build_model("transformer", grid, arch, seed=seed)
    config = MaskedPatchConfig(
        grid=asdict(detector.grid),
        masking=asdict(masking or Masking()),
        **{name: getattr(detector.config, name) for name in TransformerConfig.arch_names()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MaskedPatchModel(config)
    _copy_encoder(detector, model)
    return model.eval()


def load_masked_model(folder: str | Path) -> MaskedPatchModel:
    """Load a model that `MaskedPatchModel.save` wrote; only safetensors are read, never a pickle.

    Raises
    ------
    PretrainedError
        If the folder holds no such model.
    StoredFileError
        If it holds a pickle.
    """
    folder = Path(folder)
    refuse_pickles(folder)
    if not is_masked_model(folder):
        raise PretrainedError(f"{folder} holds no pretrained encoder; make one with `shutterless pretrain`")
    if not (folder / SAFE_WEIGHTS_NAME).is_file():
        raise PretrainedError(f"{folder} has no {SAFE_WEIGHTS_NAME}; copy the whole folder of `shutterless pretrain`")
    model = MaskedPatchModel(MaskedPatchConfig.from_pretrained(folder, local_files_only=True))
    model.load_state_dict(load_file(folder / SAFE_WEIGHTS_NAME))
    return model.eval()


def is_masked_model(folder: str | Path) -> bool:
    """Whether a folder holds a pretrained encoder and not a detector."""
    path = Path(folder) / _CONFIG
    if not path.is_file():
        return False
    return read_json(path).get("model_type") == MaskedPatchConfig.model_type


def start_from_encoder(detector: TransformerDetector, pretrained: MaskedPatchModel, what: str) -> TransformerDetector:
    """Copy input scaling, embeddings and encoder of a pretraining into a new detector; its head is not changed.

    Parameters
    ----------
    detector : TransformerDetector
        Changed in place.
    pretrained : MaskedPatchModel
    what : str
        Name of the pretrained encoder in error messages, e.g. its folder.

    Raises
    ------
    GridError, PretrainedError
        If grid, architecture or features differ from those of the detector; both are shown.
    """
    check_same_grid(pretrained.grid, detector.grid, what)
    found = pretrained.config.architecture()
    own = {name: getattr(detector.config, name) for name in found}
    if own != found:
        raise PretrainedError(
            f"{what} was pretrained with {_differing(found, own)}, but the model to train has "
            f"{_differing(own, found)}; set [transformer] to the pretrained values (--set transformer.KEY=VALUE), or "
            "pretrain again"
        )
    if list(pretrained.config.feature_names or ()) != list(detector.config.feature_names or ()):
        raise PretrainedError(
            f"{what} was pretrained with features {list(pretrained.config.feature_names or ())}, but stage 1 computes "
            f"{list(STAGE1_FEATURES)}; pretrain again"
        )
    _copy_encoder(pretrained, detector)
    return detector


def _differing(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != others[name]}


def _copy_encoder(source: nn.Module, target: nn.Module) -> None:
    for name in ENCODER_PARTS:
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())
