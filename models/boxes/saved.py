"""Load a box detector; whatever is wrong with its folder is said in one line."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from shutterless.models.boxes.configuration import BoxDetectorConfig
from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.configuration import MOST_SIZE
from shutterless.models.families import ModelError
from shutterless.models.inputs import no_progress_bars
from shutterless.pipeline.stored_files import read_json, refuse_pickles

_MOST_TILE_PX = 4096
_KEYS = ("kinds", "tile_px", "channels", "attention", "n_layers", "n_heads", "pixel_scale_arcsec", "training")


def load_boxes(folder: str | Path) -> BoxDetector:
    """Load a saved detector, in evaluation mode.

    Raises
    ------
    ModelError
        If there is none, or its weights are damaged, do not fit its configuration, or are not finite.
    StoredFileError
        If it holds a pickle, or a configuration that is no JSON object.
    """
    folder = Path(folder)
    for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ModelError(f"no box detector in {folder}: {name} is missing; `shutterless boxes train` writes one")
    refuse_pickles(folder)
    config = _read_config(folder)
    wanted = {name: tuple(values.shape) for name, values in BoxDetector(config).state_dict().items()}
    try:
        with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
            finite = all(bool(stored.get_tensor(name).isfinite().all()) for name in found)
    except SafetensorError as error:
        raise ModelError(f"{folder / SAFE_WEIGHTS_NAME} is not a safetensors file ({error}); train again") from error
    if wanted != found:
        wrong = next(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
        raise ModelError(
            f"the weights in {folder / SAFE_WEIGHTS_NAME} do not fit its {CONFIG_NAME}: {wrong} has shape "
            f"{found.get(wrong, 'none')}, the configuration makes it {wanted.get(wrong, 'none')}"
        )
    if not finite:
        raise ModelError(f"weights in {folder / SAFE_WEIGHTS_NAME} are not finite; train again")
    with no_progress_bars():
        return BoxDetector.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True).eval()


def _read_config(folder: Path) -> BoxDetectorConfig:
    values = read_json(folder / CONFIG_NAME)
    if values.get("model_type") != BoxDetectorConfig.model_type:
        raise ModelError(f"{folder} holds a model of type {values.get('model_type')!r}, no detector of boxes")
    sizes = [*(values.get(name, 1) for name in ("tile_px", "n_layers", "n_heads")), *(values.get("channels") or ())]
    if not all(isinstance(n, int) and 1 <= n <= MOST_SIZE for n in sizes) or sizes[0] > _MOST_TILE_PX:
        raise ModelError(f"{folder / CONFIG_NAME}: tile_px, n_layers, n_heads and channels are {sizes}, no sizes")
    try:
        return BoxDetectorConfig(**{key: values[key] for key in _KEYS if key in values})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG_NAME} is not that of a detector of boxes: {error}") from error
