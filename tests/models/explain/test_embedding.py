"""Clusters and outliers of points at known positions, and of strips with some odd ones."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shutterless.models.explain.embedding import (
    NOT_INJECTED,
    OUTLIER,
    EmbeddingError,
    embed_night,
    map_embedding,
    name_clusters,
    summarise_strips,
    true_kinds,
)
from shutterless.models.families import build_model
from shutterless.models.pretraining.fit import fit_masked_model
from shutterless.models.pretraining.masked_patches import build_masked_model
from shutterless.models.pretraining.reconstruction import reconstruct
from shutterless.models.pretraining.settings import PretrainingSettings
from shutterless.pipeline.tokens import StripBatch, TokenGrid, concatenate_strips, patchify

TRANSFORMER = {"hidden_size": 32, "n_layers": 2, "n_heads": 2, "mlp_size": 48, "dropout": 0.0}
GRID = TokenGrid(n_y=1, n_columns=5, n_rows=24, patch_rows=4, bins=(1,))


def two_clouds(n=60, seed=0):
    """Twice as many points around (0, …) as around (12, …), in ten dimensions, and one at (-9, 15, …)."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((3 * n + 1, 10))
    points[2 * n : 3 * n] += 12
    points[-1, ::2], points[-1, 1::2] = -9, 15
    return points


def odd_strips(n, seed=5):
    """Strips unlike the toy's: all columns dark for eight rows, then bright for eight, by 6σ, as by pickup."""
    rng = np.random.default_rng(seed)
    residual = rng.standard_normal((n, 1, 5, 24)).astype(np.float32)
    residual[..., 4:12] -= 6
    residual[..., 12:20] += 6
    return patchify(residual, GRID)


def with_odd_ones(strips: StripBatch, n_odd: int) -> StripBatch:
    last = strips[len(strips) - n_odd :]
    return concatenate_strips([strips[: len(strips) - n_odd], replace(last, patches=odd_strips(n_odd))])


def test_clusters_are_found_and_numbered_by_size():
    found = map_embedding(two_clouds())
    assert found.n_clusters == 2
    cluster = found.points["cluster"].to_numpy()
    assert (cluster[:120] == 0).mean() > 0.9
    assert (cluster[120:180] == 1).mean() > 0.9
    assert cluster[-1] == OUTLIER


def test_the_point_far_from_all_is_the_oddest():
    points = map_embedding(two_clouds()).points
    for name in ("local_outlier_factor", "isolation", "outlier_score"):
        assert points[name].argmax() == 180
    assert points["outlier_score"].iloc[180] > 2 * points["outlier_score"].iloc[:180].max()


def test_the_first_component_separates_the_clouds_and_has_unit_variance():
    found = map_embedding(two_clouds())
    first = found.points["component_1"].to_numpy()
    assert first.std() == pytest.approx(1)
    assert min(abs(first[:120].mean() - first[120:180].mean()), 1.5) == 1.5
    assert found.explained[0] > 0.5 > found.explained[1]
    assert np.all(np.diff(found.explained) <= 1e-12)


def test_the_map_is_the_same_every_time():
    first, second, other = (map_embedding(two_clouds(), seed=seed).points for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(other)


def test_a_large_reconstruction_error_makes_a_strip_odder():
    clouds = two_clouds()
    error = np.full(181, 1.0)
    error[7] = 5.0
    plain, with_error = map_embedding(clouds).points, map_embedding(clouds, reconstruction_error=error).points
    assert "reconstruction_error" not in plain
    np.testing.assert_array_equal(with_error["reconstruction_error"], error)
    rank = [points["outlier_score"].rank().iloc[7] for points in (plain, with_error)]
    assert rank[1] > rank[0]


def test_a_score_is_in_robust_standard_deviations():
    """Reconstruction errors e⁻², e⁻¹, 1, e, e², repeated: their logarithms have median 0 and median deviation 1."""
    error = np.exp(np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 37)[:181])
    error[7] = np.exp(30.0)
    score = map_embedding(two_clouds(), reconstruction_error=error).points["outlier_score"]
    assert score.iloc[7] == pytest.approx(30 / 1.4826, rel=1e-3)


@pytest.fixture(scope="module")
def pretrained(toy):
    model = build_masked_model(GRID, TRANSFORMER, seed=1)
    settings = PretrainingSettings(epochs=4, batch_size=64, learning_rate=3e-3, device="cpu")
    index = np.arange(400, 1200)
    return fit_masked_model(model, toy.strips, index[:600], index[600:], np.full(1200, "toy"), settings).model


@pytest.mark.parametrize("family", ["transformer", "cnn", "mlp"])
def test_injected_odd_strips_rank_among_the_outliers(toy, pretrained, family):
    """Ten of 400 strips are of an unknown kind: all are among the 20 oddest, for models trained without labels.

    Summaries of a CNN and an MLP suffice; those of a transformer hardly do, because it normalizes every token.
    """
    strips = with_odd_ones(toy.strips[:400], 10)
    architectures = {"transformer": TRANSFORMER, "cnn": {"kernel_rows": 5, "channels": [16, 24], "strides": [1, 2]}}
    model = build_model(family, GRID, architectures.get(family), seed=1)
    model.scaling.fit(strips[:390])
    error = reconstruct(pretrained, strips, device="cpu").strip_error if family == "transformer" else None
    points = map_embedding(summarise_strips(model, strips), reconstruction_error=error).points
    oddest = np.argsort(-points["outlier_score"].to_numpy())[:20]
    assert set(range(390, 400)) <= set(oddest)


def test_summaries_are_what_the_heads_read(toy):
    """The head gives the event logit from summary and features."""
    import torch

    from shutterless.models.dataset import strips_to_tensors

    model = build_model("mlp", GRID, {"hidden_sizes": [12]}, seed=1)
    strips = toy.strips[:5]
    summaries = summarise_strips(model, strips, batch_size=2)
    assert summaries.shape == (5, 12)
    with torch.inference_mode():
        tensors = strips_to_tensors(strips)
        features = model.scaling(**tensors).features
        expected = model(**tensors).event_logit
        torch.testing.assert_close(model.head(torch.from_numpy(summaries), features).event_logit, expected)


def test_no_strip_no_summary(toy):
    assert summarise_strips(build_model("mlp", GRID, {"hidden_sizes": [12]}), toy.strips[:0]).shape == (0, 12)


@pytest.mark.parametrize(
    ("summaries", "error", "message"),
    [
        (np.zeros((9, 4)), None, "9 strips are too few for a map, at least 10 are needed"),
        (np.where(np.arange(12)[:, None] == 3, np.nan, np.ones((12, 4))), None, "1 of 12 summaries are not finite"),
        (np.ones((12, 4)), None, "all 12 summaries are the same: the model does not distinguish strips"),
        (np.eye(12), np.ones(11), r"errors of shape \(11,\) for 12 strips: give a positive number for each"),
        (np.eye(12), np.full(12, np.nan), r"errors of shape \(12,\) for 12 strips: give a positive number for each"),
    ],
)
def test_what_cannot_be_mapped_is_refused(summaries, error, message):
    with pytest.raises(EmbeddingError, match=message):
        map_embedding(summaries, reconstruction_error=error)


def test_clusters_are_named_by_what_most_of_them_are():
    kinds = np.array(["flare", "flare", "burst", "noise", "flare", "noise"], dtype=object)
    named = name_clusters([1, 1, 1, 0, OUTLIER, 0], kinds)
    assert named["cluster"].tolist() == [0, 1, OUTLIER]
    assert named["name"].tolist() == [
        "cluster 0 (2): 100 % noise",
        "cluster 1 (3): 67 % flare",
        "in no cluster (1): 100 % flare",
    ]


def test_triggers_are_named_by_the_truth_of_their_own_amplifier():
    triggers = pd.DataFrame(
        {"entry": ["a", "b", "a"], "x": [10.0, 10.0, 40.0], "row_start": 100, "row_stop": 110, "width_rows": 8}
    )
    place = {"file": "f.fits", "ccd": 1, "x": 10.5, "row_start": 102, "row_stop": 108, "rho": 9.0}
    truth = pd.DataFrame([{**place, "quadrant": 1, "kind": "flare"}, {**place, "quadrant": 3, "kind": "burst"}])
    manifest = pd.DataFrame({"entry": ["a", "b"], "file": "f.fits", "ccd": 1, "quadrant": [1, 2]})
    assert true_kinds(triggers, truth, manifest).tolist() == ["flare", NOT_INJECTED, NOT_INJECTED]


def test_a_store_without_amplifiers_has_no_night(tmp_path):
    from shutterless.pipeline.store.store import write_manifest

    write_manifest(tmp_path, [])
    with pytest.raises(EmbeddingError, match=r"holds no amplifier; see its failures\.parquet"):
        embed_night(tmp_path, build_model("mlp", GRID))
