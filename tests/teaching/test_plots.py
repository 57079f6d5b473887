"""Figures: labelled in both languages, honest scales, every Vietnamese letter drawn, settings left alone."""

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from helpers import BLOCKS, block_histograms, cosine_similarity, null_density, set_language, smile_index
from helpers.teaching.labels import LABELS, label
from helpers.teaching.plots import (
    densities,
    plot_attention,
    plot_blocks,
    plot_conditions,
    plot_feature_pair,
    plot_matrix_mask,
    plot_one_curve,
    plot_similarity,
)
from helpers.teaching.plots.style import COLOURS

SIZES = (6, 3, 3)


@pytest.fixture(autouse=True)
def clean():
    yield
    plt.close("all")
    set_language("en")


@pytest.fixture(scope="module")
def histograms():
    x = torch.randn(3, 54, 12, generator=torch.Generator().manual_seed(0))
    x[0] = 2.0  # a layer of constants: every correlation undefined
    return block_histograms(x, SIZES, bins=20)


def every_figure(histograms):
    x = torch.randn(54, 12, generator=torch.Generator().manual_seed(0))
    yield plot_blocks(histograms["cosine"], control=histograms["cosine"], baseline=histograms["cosine"], title="model")
    yield plot_blocks(histograms["correlation"], blocks=("QK", "KV"), layers=[0, 2], null=True)
    one = block_histograms(x, SIZES)
    yield plot_conditions({"a": one, "b": one, "c": one, "d": one, "e": one}, title="title")
    layers = block_histograms(x[None], SIZES)
    rows = [[(block, torch.tensor([0.5]), layers[m][block]) for block in BLOCKS] for m in layers]
    yield plot_one_curve(*rows, title="title")
    yield plot_attention([torch.eye(3), torch.eye(3)], ["a", "b", "c"], ["x", "y"], "title")
    yield plot_matrix_mask(SIZES)
    yield plot_similarity(cosine_similarity(x), SIZES, "cosine", "title")
    yield plot_feature_pair(x[:, 0], x[:, 1], "title")


@pytest.mark.parametrize("language", ["vi", "en"])
def test_every_axis_is_labelled_and_every_letter_drawn(histograms, language, tmp_path):
    set_language(language)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        for number, figure in enumerate(every_figure(histograms)):
            figure.savefig(tmp_path / f"{number}.png")
            assert any(axis.get_xlabel() for axis in figure.axes)
            assert any(axis.get_ylabel() for axis in figure.axes)


def test_every_label_can_be_drawn_with_the_font_of_the_figures(tmp_path):
    figure = plt.figure()
    for row in LABELS.values():
        for text in row:
            figure.text(0, 0, text, family="DejaVu Sans")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "labels.png")


def test_an_image_has_a_colour_bar_with_a_label_and_the_whole_range(histograms):
    figure = plot_similarity(torch.eye(12), SIZES, "cosine")
    picture, bar = figure.axes
    assert picture.images[0].get_clim() == (-1, 1) and bar.get_ylabel() == "cosine similarity"


def test_panels_share_their_scale_and_are_densities(histograms):
    figure = plot_blocks(histograms["cosine"], layers=[1, 2])
    panels = figure.axes
    assert len(panels) == 6
    assert len({panel.get_ylim() for panel in panels}) == 1 and len({panel.get_xlim() for panel in panels}) == 1
    assert panels[0].get_xlim()[0] < -1 and panels[0].get_xlim()[1] > 1  # the outer bins are visible


def test_densities_integrate_to_one_and_are_nan_where_nothing_is_defined(histograms):
    values = densities(histograms["correlation"]["QQ"])  # [layer, bins]
    width = 2 / 20
    assert values[0].isnan().all()
    assert torch.allclose(values[1:].sum(-1) * width, torch.ones(2, dtype=torch.float64))


def test_rows_show_the_layers_that_were_asked_for(histograms):
    figure = plot_blocks(histograms["cosine"], blocks=("QQ",), layers=[2])
    drawn = figure.axes[0].patches[0].get_data().values
    assert torch.allclose(torch.as_tensor(drawn), densities(histograms["cosine"]["QQ"])[2])
    assert "layer 2" in figure.axes[0].get_ylabel()


def test_a_layer_of_constants_says_so_instead_of_drawing_nothing(histograms):
    figure = plot_blocks(histograms["correlation"], blocks=("QQ",), layers=[0])
    assert [text.get_text() for text in figure.axes[0].texts] == [label("no_pairs")]


def test_a_histogram_without_layers_is_one_row():
    x = torch.randn(54, 12, generator=torch.Generator().manual_seed(0))
    assert len(plot_blocks(block_histograms(x, SIZES)["cosine"]).axes) == 3


def test_the_null_is_drawn_at_its_own_height(histograms):
    figure = plot_blocks(histograms["correlation"], blocks=("QQ",), layers=[1], null=True)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "null distribution")
    s, density = line.get_data()
    assert density == pytest.approx(null_density(s, 54, "correlation"))


def test_the_number_of_sentences_is_on_the_figure(histograms):
    assert "n = 54" in plot_blocks(histograms["cosine"], title="model").get_suptitle()


def test_every_part_and_every_cross_block_has_a_colour_of_its_own():
    assert len({COLOURS[name] for name in ("QQ", "KK", "VV", "QK", "QV", "KV")}) == 6
    assert all(COLOURS[part] == COLOURS[part * 2] for part in "QKV")


def test_the_readers_own_settings_are_left_alone(histograms):
    with plt.rc_context({"axes.titlesize": 31, "interactive": True}):
        plot_matrix_mask(SIZES)
        assert plt.rcParams["axes.titlesize"] == 31 and plt.isinteractive()


def test_conditions_show_each_histogram_under_its_name(histograms):
    x = torch.randn(54, 12, generator=torch.Generator().manual_seed(0))
    one, other = block_histograms(x, SIZES), block_histograms(x + 5, SIZES)
    figure = plot_conditions({"one": one, "other": other}, measures=("cosine",), blocks=("QK",), null=False)
    drawn = {patch.get_label(): torch.as_tensor(patch.get_data().values) for patch in figure.axes[0].patches}
    assert torch.allclose(drawn["one"], densities(one["cosine"]["QK"]))
    assert torch.allclose(drawn["other"], densities(other["cosine"]["QK"]))


def test_the_one_curve_figure_draws_every_point_and_the_null_at_its_number():
    result = block_histograms(torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(0)), SIZES)
    cosines, bells = (dict(result[measure].items()) for measure in ("cosine", "correlation"))
    share, size = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([5.0, 7.0, 9.0])
    figure = plot_one_curve([(b, share, h) for b, h in cosines.items()], [(b, size, h) for b, h in bells.items()])
    for axis, at, found in zip(figure.axes, (share, size), (cosines, bells)):
        drawn = {line.get_label(): line.get_xydata() for line in axis.lines}
        assert {*BLOCKS, "null distribution"} <= set(drawn)
        assert drawn["KV"] == pytest.approx(torch.stack([at, smile_index(found["KV"])], dim=1).numpy())
    cosine, correlation = (
        {line.get_label(): line.get_xydata() for line in axis.lines}["null distribution"] for axis in figure.axes
    )
    assert np.interp(3**-0.5, *cosine.T) == pytest.approx(0, abs=1e-3)  # three sentences: uniform
    assert np.interp(4, *correlation.T) == pytest.approx(0, abs=1e-3)
    assert (np.diff(cosine[:, 1]) > 0).all() and (np.diff(correlation[:, 1]) < 0).all()
