"""The explorers: what they show is what the library computes, at the start and after every move, in both languages."""

import io
import re
import statistics
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from ipywidgets import VBox
from matplotlib.patches import StepPatch
from PIL import Image

from helpers import (
    BLOCKS,
    block_histograms,
    cosine_similarity,
    matrix_mask,
    n_block_pairs,
    null_density,
    pearson_correlation,
    set_language,
    smile_index,
)
from helpers.teaching.labels import label
from helpers.teaching.plots.style import densities
from helpers.teaching.widgets import (
    N_FEATURES,
    centring_explorer,
    layer_explorer,
    mask_explorer,
    offset_explorer,
    small_n_explorer,
)

SIZES = (12, 8, 8)
both_languages = pytest.mark.parametrize("language", ["vi", "en"])


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language("en")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_offsets():
    """`[layer, sample, feature]` with large means; every feature of layer 0 is constant."""
    x = normal(3, 54, sum(SIZES)) + 3 * normal(sum(SIZES), seed=1)
    x[0] = x[0, 0]
    return x


def layers(measure="cosine", **kwargs):
    return block_histograms(with_offsets(), SIZES, **kwargs)[measure]


# name -> (function that makes it, other values to move to, label of the control)
EXPLORERS = {
    "offset": (lambda: offset_explorer(normal(54, 2)), [-5, -0.25, 0, 4.75], "offset_short"),
    "mask": (lambda: mask_explorer(SIZES), ["QK", "VV", "KV"], "block"),
    "small n": (small_n_explorer, [4, 5, 54], "n_sentences"),
    "centring": (lambda: centring_explorer(with_offsets()[1], SIZES), [0.05, 0.5, 1], "taken_out"),
    "layer": (lambda: layer_explorer(layers(), layers(), layers()), [1, 2], "layer"),
    "layer with null": (lambda: layer_explorer(layers("correlation"), layers("correlation")), [1, 2], "layer"),
}
every_explorer = pytest.mark.parametrize("name", EXPLORERS)


def bars(explorer, panel=0, number=0):
    """Heights of the histogram that is drawn."""
    steps = [patch for patch in explorer.figure.axes[panel].patches if isinstance(patch, StepPatch)]
    return steps[number].get_data().values


def state(explorer):
    return explorer.figure.get_suptitle()


def picture(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.image.value)).convert("RGB"))


# ---- what all of them share ----------------------------------------------------------------------


@every_explorer
@both_languages
def test_controls_axes_and_letters_are_in_the_language_and_pyplot_is_left_alone(name, language):
    set_language(language)
    make, values, key = EXPLORERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        explorer = make()
        for value in values:
            explorer.redraw(value)
    assert explorer.control.description == label(key)
    assert isinstance(explorer.widget, VBox) and explorer.control in explorer.widget.children
    axes = explorer.figure.axes
    assert any(axis.get_xlabel() for axis in axes) and axes[0].get_ylabel()
    texts = {text.get_text() for axis in axes for text in [axis.xaxis.label, axis.yaxis.label]} | {state(explorer)}
    assert not any(vi in " ".join(texts) for vi in ("mật độ", "câu", "độ dời", "tầng", "chiều")) or language == "vi"
    assert any(not text.isascii() and re.search("[ạ-ỹđ]", text) for text in texts) == (language == "vi")
    assert plt.get_fignums() == []


@every_explorer
def test_picture_words_and_figure_show_the_value_of_the_control(name):
    make, values, _ = EXPLORERS[name]
    explorer = make()
    for value in values:
        before = explorer.image.value
        explorer.control.value = value  # as the browser does
        assert explorer.image.value != before and state(explorer) in explorer.words.value
        moved = make()
        moved.redraw(value)
        assert moved.control.value == explorer.control.value
        assert np.array_equal(picture(moved), picture(explorer))


@every_explorer
def test_moving_back_gives_the_first_picture_again(name):
    make, values, _ = EXPLORERS[name]
    explorer = make()
    start, before = explorer.control.value, picture(explorer)
    for value in [*values, start]:
        explorer.redraw(value)
    assert np.array_equal(picture(explorer), before)


@every_explorer
def test_sliders_follow_the_hand_and_show_their_value(name):
    control = EXPLORERS[name][0]().control
    if name != "mask":
        assert control.continuous_update and control.readout


@pytest.mark.parametrize(
    ("name", "value"), [("offset", 5.25), ("mask", "KQ"), ("small n", 2), ("centring", -0.1), ("layer", 3)]
)
def test_a_value_off_the_control_is_refused_and_changes_nothing(name, value):
    explorer = EXPLORERS[name][0]()
    before = explorer.image.value
    with pytest.raises(ValueError, match=re.escape(f"{value!r} is not on the control: expected ")):
        explorer.redraw(value)
    assert explorer.image.value == before


@every_explorer
def test_the_figure_is_a_picture_in_a_notebook_with_a_text_that_stays_the_same(name):
    figure = EXPLORERS[name][0]().figure
    assert Image.open(io.BytesIO(figure._repr_png_())).size == tuple((figure.get_size_inches() * 100).round())
    assert re.fullmatch(r"<StillFigure size \d+x\d+ with \d Axes>", repr(figure))


@every_explorer
def test_the_image_has_no_tooltip_which_would_fail_in_the_browser(name):
    assert not getattr(EXPLORERS[name][0]().image, "tooltip", None)


def test_a_language_chosen_later_does_not_mix_into_an_explorer():
    explorer = EXPLORERS["layer"][0]()
    set_language("vi")
    explorer.redraw(2)
    assert state(explorer).startswith("layer 2") and "sentences" in state(explorer)


# ---- each one ------------------------------------------------------------------------------------


def test_offset_marks_lie_on_the_curves_at_the_right_heights():
    x = normal(54, 2).double()
    explorer = offset_explorer(x, offset=-1.5)
    for offset in (-1.5, 3.0):
        explorer.redraw(offset)
        expected = [float(measure(x + offset)[0, 1]) for measure in (cosine_similarity, pearson_correlation)]
        marks = [line for line in explorer.figure.axes[0].lines if line.get_marker() == "o"]
        assert [float(mark.get_xdata()[0]) for mark in marks] == [offset, offset]
        assert [float(mark.get_ydata()[0]) for mark in marks] == pytest.approx(expected, abs=1e-12)
        assert (
            state(explorer).replace("−", "-") == f"offset {offset:+.2f} · cos {expected[0]:+.2f} · r {expected[1]:+.2f}"
        )
    curves = [line for line in explorer.figure.axes[0].lines if len(line.get_xdata()) == 201]
    assert curves[0].get_ydata()[100] == pytest.approx(float(cosine_similarity(x)[0, 1]))
    assert np.ptp(curves[1].get_ydata()) < 1e-12


@pytest.mark.parametrize("block", BLOCKS)
def test_the_cells_of_the_block_are_lit_and_no_others(block):
    explorer = mask_explorer(SIZES)
    explorer.redraw(block)
    lit = explorer.figure.axes[0].images[0].get_array() > 6  # 1 to 6 are the pale blocks
    assert np.array_equal(lit, (matrix_mask(SIZES) == BLOCKS[block]).numpy())
    assert state(explorer) == f"{block} · code {BLOCKS[block]} · pairs: {n_block_pairs(SIZES)[block]:_}"


def test_a_large_mask_keeps_its_proportions():
    picture = mask_explorer((768, 768, 768)).figure.axes[0].images[0]
    assert picture.get_extent() == [-0.5, 2303.5, 2303.5, -0.5]
    assert (picture.get_array() > 6).mean() == pytest.approx(1 / 18, abs=0.002)


@pytest.mark.parametrize("n", [3, 4, 20])
def test_small_n_shows_the_histogram_of_the_simulation_on_the_exact_density(n):
    explorer = small_n_explorer(n_max=20, seed=5)
    explorer.redraw(n)
    x = normal(20, N_FEATURES + 2, seed=5)[:n, :N_FEATURES]
    r = np.corrcoef(x.double().numpy(), rowvar=False)[np.triu_indices(N_FEATURES, 1)]
    expected = np.histogram(r.clip(-1, 1), 50, (-1, 1), density=True)[0]
    assert np.abs(bars(explorer) - expected).max() < 1e-2  # a value on an edge may fall on either side
    s, curve = explorer.figure.axes[0].lines[0].get_data()
    assert curve == pytest.approx(null_density(s, n, "correlation"))
    assert explorer.figure.axes[0].get_ylim()[1] > bars(explorer).max()


def test_three_sentences_smile_and_many_do_not():
    explorer = small_n_explorer()
    assert explorer.control.value == 3 and "S = +" in state(explorer)
    explorer.redraw(54)
    assert "S = −" in state(explorer)


@pytest.mark.parametrize("block", ["QQ", "KK", "QV"])
@pytest.mark.parametrize("a", [0, 0.35, 1])
def test_centring_shows_the_cosines_after_a_share_of_the_mean_is_gone(block, a):
    x = with_offsets()[1]
    explorer = centring_explorer(x, SIZES, block)
    explorer.redraw(a)
    expected = block_histograms(x.double() - a * x.double().mean(dim=0), SIZES, measures="cosine")["cosine"][block]
    assert bars(explorer) == pytest.approx(densities(expected).numpy())
    assert f"S = {float(smile_index(expected)):+.2f}".replace("-", "−") in state(explorer)


def test_at_the_end_of_the_slider_the_cosine_is_the_correlation_and_the_smile_is_closed():
    x = with_offsets()[1]
    explorer = centring_explorer(x, SIZES)
    assert "S = +" in state(explorer)
    explorer.redraw(1)
    assert bars(explorer) == pytest.approx(densities(block_histograms(x, SIZES)["correlation"]["QQ"]).numpy())
    assert "S = −" in state(explorer)


def test_a_constant_feature_leaves_no_rounding_noise_behind_when_its_mean_is_gone():
    x = with_offsets()[1]
    x[:, :4] = 0.1
    explorer = centring_explorer(x, SIZES)
    explorer.redraw(1)
    assert bars(explorer) == pytest.approx(densities(block_histograms(x, SIZES)["correlation"]["QQ"]).numpy())


@pytest.mark.parametrize("measure", ["cosine", "correlation"])
def test_every_layer_shows_target_control_and_baseline(measure):
    target, control, baseline = layers(measure), block_histograms(normal(3, 54, 28), SIZES)[measure], layers(measure)
    explorer = layer_explorer(target, control, baseline)
    top = {panel.get_ylim() for panel in explorer.figure.axes}
    for layer in (1, 2):
        explorer.redraw(layer)
        for panel, block in enumerate(("QQ", "KK", "VV")):
            for number, histograms in enumerate((target, control, baseline)):
                expected = densities(histograms[block])[layer].numpy()
                assert bars(explorer, panel, number) == pytest.approx(expected)
            assert f"{block} {float(smile_index(target[block])[layer]):+.2f}".replace("-", "−") in state(explorer)
    assert {panel.get_ylim() for panel in explorer.figure.axes} == top and len(top) == 1


def test_a_layer_without_pairs_says_so_and_a_bar_that_is_cut_says_how_high_it_is():
    explorer = layer_explorer(layers("correlation"), layers("correlation"))
    assert explorer.control.value == 0
    assert [text.get_text() for axis in explorer.figure.axes for text in axis.texts] == [label("no_pairs")] * 3
    x = with_offsets().repeat(7, 1, 1)[1:]
    x[0] = 1.0  # every cosine is 1
    high = block_histograms(x, SIZES)["cosine"]
    explorer = layer_explorer(high, high)
    explorer.redraw(0)
    assert explorer.figure.axes[0].texts[0].get_text() == ("cut off, reaches 50")
    explorer.redraw(1)
    assert explorer.figure.axes[0].texts[0].get_text() == ""


def test_without_a_baseline_the_exact_null_is_drawn():
    explorer = EXPLORERS["layer with null"][0]()
    s, density = explorer.figure.axes[1].lines[0].get_data()
    assert density == pytest.approx(null_density(s, 54, "correlation"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: offset_explorer(normal(54, 3)), r"got \(54, 3\): take x\[:, \[i, j\]\]"),
        (lambda: offset_explorer(normal(2, 2)), r"3 or more tokens, got \(2, 2\)"),
        (lambda: offset_explorer(normal(54, 2), offset=6), "from -5 to 5, got 6"),
        (lambda: offset_explorer(torch.ones(54, 2)), "constant"),
        (lambda: mask_explorer((2, 1)), r"three whole positive numbers, got \(2, 1\)"),
        (lambda: small_n_explorer(3), "above 3, got 3"),
        (lambda: small_n_explorer(5.5), "above 3, got 5.5"),
        (lambda: centring_explorer(with_offsets(), SIZES), r"got \(3, 54, 28\): choose one layer"),
        (lambda: centring_explorer(with_offsets()[0], (12, 8, 9)), "add up to 29"),
        (lambda: centring_explorer(with_offsets()[0], SIZES, "KQ"), "unknown block 'KQ': expected one of QQ"),
        (lambda: layer_explorer(block_histograms(with_offsets(), SIZES), layers()), "target: .* got dict: pass"),
        (lambda: layer_explorer(layers(), layers("correlation")), "control: got the correlation"),
        (lambda: layer_explorer(layers(), layers(), layers(bins=50)), r"baseline: .* counts \(3, 50\)"),
        (lambda: layer_explorer(*[block_histograms(normal(54, 28), SIZES)["cosine"]] * 2), r"counts \[layer, bins\]"),
    ],
)
def test_wrong_arguments_are_refused_with_what_came_and_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- speed ---------------------------------------------------------------------------------------


def test_a_redraw_on_a_layer_of_the_model_is_quick(her_qkv):
    x = her_qkv.joined()
    histograms = block_histograms(x, her_qkv.sizes)["cosine"]
    cases = {
        "offset": (offset_explorer(x[3][:, :2]), range(-3, 4)),
        "mask": (mask_explorer(her_qkv.sizes), ["QK", "VV", "QV", "KK", "KV", "QQ", "QK"]),
        "small n": (small_n_explorer(), range(4, 11)),
        "centring": (
            centring_explorer(x[3], her_qkv.sizes),
            [step / 13 for step in range(1, 8)],
        ),  # not among the prepared steps
        "layers": (layer_explorer(histograms, histograms, histograms), range(5, 12)),
    }
    for name, (explorer, values) in cases.items():
        times = []
        for value in values:
            start = time.process_time()
            explorer.redraw(value)
            times.append(time.process_time() - start)
        median = statistics.median(times)
        print(f"redraw {name}: {1000 * median:.0f} ms of processor time")
        assert median < 0.6  # far above what is wanted (0.15): the machine may be slow or busy
