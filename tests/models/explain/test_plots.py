import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from shutterless.models.explain.embedding import OUTLIER
from shutterless.models.explain.embedding_plots import plot_embedding, plot_outlier_scores
from shutterless.models.explain.plots import (
    plot_attention,
    plot_attribution,
    plot_contributions,
    plot_gallery,
    plot_rollout,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def points():
    return pd.DataFrame(
        {
            "component_1": [0.0, 1.0, 2.0, 3.0],
            "component_2": [0.0, 0.0, 5.0, 1.0],
            "cluster": [0, 0, OUTLIER, 1],
            "outlier_score": [0.1, 0.2, 7.0, 0.3],
        }
    )


def test_attention_is_drawn_against_an_even_share(ax):
    assert (
        plot_attention(np.array([0.5, 0.25, 0.25, 0.0]), ax, first_row=100, rows_per_bin=4, marked_rows=(100, 103))
        is ax
    )
    stairs = ax.patches[-1].get_data()
    np.testing.assert_allclose(stairs.values, [2, 1, 1, 0])
    np.testing.assert_allclose(stairs.edges, [99.5, 103.5, 107.5, 111.5, 115.5])
    assert legend(ax) == ["event", "attention rollout", "even share"]
    assert ax.get_xlim() == (99.5, 115.5)


def test_rollout_colours_end_at_the_largest_share_beside_the_diagonal(ax):
    image = plot_rollout(np.array([[0.9, 0.1], [0.3, 0.7]]), ax).images[0]
    np.testing.assert_allclose(image.get_clim(), (0, 0.3))
    assert image.colorbar.ax.get_ylabel() == "Share of the input token"


def test_attribution_is_symmetric_and_lies_where_the_strip_lies(ax):
    values = np.zeros((3, 10))
    values[1, 4] = -2.0
    plot_attribution(values, ax, first_row=50, first_column=7, rows_per_bin=2, marked_rows=(58, 59))
    image = ax.images[0]
    assert image.get_extent() == [49.5, 69.5, 6.5, 9.5]
    low, high = image.get_clim()
    assert low == -high != 0
    assert [line.get_xdata()[0] for line in ax.lines] == [57.5, 59.5]
    assert image.colorbar.ax.get_ylabel() == "Attribution (logit per pixel)"


def test_contributions_stand_by_size_with_their_sign(ax):
    plot_contributions([0.5, -2.0, 1.0], ["a", "b", "c"], ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "c", "b"]
    assert [bar.get_width() for bar in ax.patches] == [0.5, 1.0, -2.0]
    assert texts(ax) == ["+0.50", "+1.00", "-2.00"]
    assert ax.patches[0].get_facecolor() == ax.patches[1].get_facecolor() != ax.patches[2].get_facecolor()


def test_gallery_lays_out_lines_from_the_top(ax):
    strips = np.arange(5 * 3 * 8, dtype=float).reshape(5, 3, 8)
    plot_gallery(strips, ax, titles=["one", "two"], n_across=2)
    assert len(ax.images) == 5
    lefts, bottoms = zip(*[(image.get_extent()[0], image.get_extent()[2]) for image in ax.images], strict=True)
    assert lefts[0] == lefts[2] == lefts[4] < lefts[1] == lefts[3]
    assert bottoms[0] == bottoms[1] > bottoms[2] == bottoms[3] > bottoms[4]
    assert {image.get_clim() for image in ax.images} == {(-119.0, 119.0)}
    assert texts(ax) == ["one", "two"]
    np.testing.assert_array_equal(ax.images[3].get_array(), strips[3])


def test_embedding_names_its_clusters_and_rings_the_oddest(ax):
    names = pd.DataFrame({"cluster": [0, 1, OUTLIER], "name": ["noise", "flares", "odd"]})
    assert plot_embedding(points(), ax, explained=np.array([0.61, 0.2]), names=names, n_outliers=1) is ax
    assert legend(ax) == ["odd", "noise", "flares"]
    assert ax.get_xlabel() == "Principal component 1 (61 % of the variance)"
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), [[2.0, 5.0]])
    assert texts(ax) == ["1"]


def test_embedding_without_truth_counts_its_clusters(ax):
    plot_embedding(points(), ax)
    assert legend(ax) == ["in no cluster (1)", "cluster 0 (2)", "cluster 1 (1)"]
    assert ax.get_xlabel() == "Principal component 1"
    assert texts(ax) == []


def test_scores_fall_with_their_rank(ax):
    plot_outlier_scores(points(), ax, kinds=np.array(["noise", "noise", "ray", "flare"]), n_shown=3)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 7.0], [2, 0.3], [3, 0.2]])
    assert legend(ax) == ["flare (1)", "noise (1)", "ray (1)"]
    np.testing.assert_array_equal(ax.lines[3].get_xydata(), [[1, 7.0]])


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda ax: plot_attention(np.empty(0), ax), "no rows"),
        (lambda ax: plot_rollout(np.empty((0, 0)), ax), "no tokens"),
        (lambda ax: plot_attribution(np.empty((0, 0)), ax), "no pixels"),
        (lambda ax: plot_contributions([], [], ax), "no inputs"),
        (lambda ax: plot_gallery(np.empty((0, 3, 8)), ax), "no strips"),
        (lambda ax: plot_embedding(points()[:0], ax), "no strips"),
        (lambda ax: plot_outlier_scores(points()[:0], ax), "no strips"),
    ],
)
def test_nothing_to_draw_is_stated(ax, draw, text):
    assert draw(ax) is ax
    assert texts(ax) == [text]


def test_attributions_of_nothing_are_drawn_too(ax):
    plot_attribution(np.zeros((2, 4)), ax)
    assert ax.images[0].get_clim() == (-1.0, 1.0)
