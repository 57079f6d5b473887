"""Figures of notebooks 07 and 08: labelled in both languages, one scale for what is compared, gaps left as gaps."""

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from helpers import BLOCKS, block_histograms, jackknife, set_language
from helpers.teaching.plots import plot_depth, plot_head_maps, plot_heads, plot_layer_histograms
from helpers.teaching.plots.style import DENSITY, densities

MAPS = {"QQ": torch.linspace(-0.5, 0.5, 12).view(4, 3), "KK": torch.zeros(4, 1)}  # [layer, head]
CURVES = {
    block: {"target": torch.tensor([torch.nan, 1.0, 2.0]), "control": torch.ones(3), "n_sentences": 3 * torch.ones(3)}
    for block in ("QQ", "KK", "VV", "QK")
}


@pytest.fixture(autouse=True)
def clean():
    yield
    plt.close("all")
    set_language("en")


@pytest.fixture(scope="module")
def histograms():
    x = torch.randn(4, 54, 12, generator=torch.Generator().manual_seed(0))
    x[0] = 2.0  # a layer of constants: every correlation undefined
    return block_histograms(x, (6, 3, 3), bins=20)


def heads():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    interval = jackknife(x, lambda x: x.mean(0))
    pooled, cuts = {"QQ": 0.1, "KK": -0.1}, {"QQ": torch.linspace(-1, 1, 101), "KK": torch.linspace(0, 1, 101)}
    return {"QQ": interval, "KK": type(interval)(*(part[:1] for part in interval))}, pooled, cuts


def every_figure(histograms):
    yield plot_layer_histograms(histograms["cosine"], histograms["cosine"], title="model")
    yield plot_layer_histograms(histograms["correlation"])
    yield plot_depth(CURVES, "smile_index", title="model")
    yield plot_depth({part: CURVES["QQ"] for part in "QKV"}, "relative_offset", log=True)
    yield plot_depth({name: CURVES["QQ"] for name in ("cosine", "correlation")}, "spread_over_heads")
    yield plot_head_maps(MAPS, "smile_index", title="model")
    yield plot_heads(*heads(), title="model")


@pytest.mark.parametrize("language", ["vi", "en"])
def test_every_axis_is_labelled_and_every_letter_drawn(histograms, language, tmp_path):
    set_language(language)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        for number, figure in enumerate(every_figure(histograms)):
            figure.savefig(tmp_path / f"{number}.png")
            assert figure.get_supxlabel() or any(axis.get_xlabel().strip() for axis in figure.axes)
            assert figure.get_supylabel() or any(axis.get_ylabel().strip() for axis in figure.axes)


def test_every_heat_map_has_one_labelled_colour_bar_and_one_scale(histograms):
    figures = [plot_layer_histograms(histograms["cosine"]), plot_layer_histograms(histograms["correlation"])]
    for figure, name, limits in (
        *((figure, "density", (DENSITY.vmin, DENSITY.vmax)) for figure in figures),
        (plot_head_maps(MAPS, "smile_index"), "smile index S", (-1, 1)),
    ):
        images = [image for axis in figure.axes for image in axis.images]
        assert images and {image.get_clim() for image in images} == {limits}
        assert figure.axes[-1].get_ylabel() == name


def test_the_middle_of_the_colours_of_densities_is_the_uniform_distribution():
    assert DENSITY(0.5) == pytest.approx(0.5)


def test_a_heat_map_shows_the_densities_in_the_order_of_the_layers_and_grey_where_there_are_none(histograms):
    figure = plot_layer_histograms(histograms["correlation"], histograms["cosine"])
    assert len(figure.axes) == 2 * len(BLOCKS) + 1
    image = figure.axes[0].images[0]
    shown = np.ma.filled(image.get_array(), np.nan)
    expected = densities(histograms["correlation"]["QQ"]).unflatten(-1, (-1, 2)).mean(-1).numpy()
    assert np.isnan(shown[0]).all() and shown[1:] == pytest.approx(np.maximum(expected[1:], DENSITY.vmin / 2))
    assert image.get_extent() == [-1, 1, 3.5, -0.5]
    assert "every pair is undefined" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert not plot_layer_histograms(histograms["cosine"]).legends


def test_curves_share_their_scale_and_leave_a_gap_where_nothing_is_defined():
    figure = plot_depth(CURVES, "smile_index")
    panels = [axis for axis in figure.axes if axis.lines]
    assert len(panels) == 4 and len({axis.get_ylim() for axis in panels}) == 1
    assert np.isnan(panels[0].lines[0].get_ydata()[0])
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["target token", "control token"]


def test_a_logarithmic_scale_is_logarithmic():
    assert plot_depth({"Q": CURVES["QQ"]}, "relative_offset", log=True).axes[0].get_yscale() == "log"


def test_a_head_map_has_a_row_for_each_head_and_a_column_for_each_layer():
    image = plot_head_maps(MAPS, "smile_index").axes[0].images[0]
    assert torch.equal(torch.as_tensor(image.get_array().data), MAPS["QQ"].T)


def test_heads_stand_beside_the_pooled_value_and_the_random_groups():
    intervals, pooled, cuts = heads()
    figure = plot_heads(intervals, pooled, cuts)
    axis = figure.axes[0]
    dots, _, (bars,) = axis.containers[0]
    assert dots.get_ydata() == pytest.approx(intervals["QQ"].estimate.numpy())
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(torch.stack([intervals["QQ"].low, intervals["QQ"].high], dim=-1).numpy())
    band = next(patch for patch in axis.patches if patch.get_label() == "random groups, middle 90%")
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((-0.9, 0.9))
    line = next(line for line in axis.lines if line.get_label() == "all heads pooled")
    assert set(line.get_ydata()) == {0.1}
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
