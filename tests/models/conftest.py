"""A toy training set, learned in a second; its grid has columns ≠ patch rows ≠ tokens, so swapped axes show."""

import numpy as np
import pytest

from shutterless.pipeline.examples.training import Labels, TrainingSet
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch, TokenGrid, patchify

GRID = TokenGrid(n_y=1, n_columns=5, n_rows=24, patch_rows=4, bins=(1,))
SMALL_ARCH = {
    "transformer": {"hidden_size": 32, "n_layers": 2, "n_heads": 2, "mlp_size": 48, "dropout": 0.0},
    "cnn": {"channels": [16, 24], "strides": [1, 2], "kernel_rows": 5, "hidden_size": 24, "dropout": 0.0},
    "mlp": {"hidden_sizes": [48], "dropout": 0.0},
}


def random_strips(n, grid=GRID, seed=0):
    """Noise of 1σ on a profile with a star, all patches valid, random features."""
    rng = np.random.default_rng(seed)
    residual = rng.standard_normal((n, grid.n_y, grid.n_columns, grid.n_rows)).astype(np.float32)
    return StripBatch(
        patches=patchify(residual, grid),
        context=rng.standard_normal((n, grid.n_tokens, grid.patch_rows)).astype(np.float32),
        profile=rng.uniform(10, 400, (n, grid.profile_size)).astype(np.float32),
        features=rng.standard_normal((n, len(STAGE1_FEATURES))).astype(np.float32),
        mask=np.ones((n, grid.n_tokens), bool),
    )


def make_toy(n=1200, grid=GRID, seed=0):
    """Half of the strips hold a pulse of four rows, 8σ in the middle column, at a random row: an easy task."""
    rng = np.random.default_rng(seed + 1)
    strips = random_strips(n, grid, seed)
    is_event = (np.arange(n) % 2).astype(np.float32)
    row = rng.integers(0, grid.n_rows - 4, n)
    pulse = np.zeros((n, grid.n_y, grid.n_columns, grid.n_rows), np.float32)
    for i in np.flatnonzero(is_event):
        pulse[i, :, grid.n_columns // 2, row[i] : row[i] + 4] = 8
    nothing = np.where(is_event > 0, 0, np.nan).astype(np.float32)
    labels = Labels(
        is_event=is_event,
        kind=np.where(is_event > 0, 2, 0),
        onset=(row / grid.n_rows + nothing).astype(np.float32),
        log2_duration=2 + nothing,
        rho=16 + nothing,
    )
    strips = StripBatch(
        patches=strips.patches + patchify(pulse, grid),
        context=strips.context,
        profile=strips.profile,
        features=strips.features,
        mask=strips.mask,
    )
    return TrainingSet(strips, labels, groups=np.arange(n) // 2 % 6, grid=grid)


@pytest.fixture(scope="session")
def toy():
    return make_toy()


@pytest.fixture
def grid():
    return GRID


@pytest.fixture
def strips():
    return random_strips(7)


@pytest.fixture(params=sorted(SMALL_ARCH))
def family(request):
    return request.param


@pytest.fixture
def model(family):
    from shutterless.models.families import build_model

    return build_model(family, GRID, SMALL_ARCH[family], seed=3)
