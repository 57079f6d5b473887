"""Figures of notebook 11: models of different depth on one axis, and conditions of which one is undefined."""

import itertools
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from helpers import block_histograms, set_language
from helpers.teaching.plots import plot_conditions, plot_relative_depth

PANELS = {
    block: {"a model of a long name": torch.linspace(-0.5, 1, 30), "another": torch.tensor([0.1, torch.nan, 0.3])}
    for block in ("QQ", "KK", "VV", "QK")
}


@pytest.fixture(autouse=True)
def clean():
    yield
    plt.close("all")
    set_language("en")


@pytest.mark.parametrize("language", ["vi", "en"])
@pytest.mark.parametrize("blocks", [("QQ", "KK", "VV", "QK"), ("QQ",)])
def test_labels_and_legend_are_drawn_and_do_not_touch(language, blocks, tmp_path):
    set_language(language)
    figure = plot_relative_depth({block: PANELS[block] for block in blocks}, "bias_share", title="“của” · n = 54")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        figure.savefig(tmp_path / "figure.png")
    texts = [axis.xaxis.label for axis in figure.axes] + [figure.axes[0].yaxis.label, *figure.legends]
    boxes = [text.get_window_extent() for text in texts]
    assert all(box.width > 0 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_first_and_last_layers_of_both_models_stand_at_the_ends_of_one_axis():
    figure = plot_relative_depth(PANELS, "smile_index")
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    for axis in figure.axes:
        long, short = axis.lines[:2]
        assert (len(long.get_xdata()), len(short.get_xdata())) == (30, 3)
        assert [line.get_xdata()[i] for line in (long, short) for i in (0, -1)] == [0, 1, 0, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a model of a long name", "another"]


def test_an_undefined_condition_says_so_instead_of_drawing_nothing():
    result = block_histograms(torch.full((5, 8), 2.0), (4, 2, 2))
    figure = plot_conditions({"target": result})
    said = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert said == [[]] * 3 + [["every pair is undefined"]] * 3  # cosines above, correlations below
