"""Figures: labelled in both languages, honest scales, every letter drawn, gaps left as gaps, settings left alone."""

import itertools
import unicodedata
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from helpers import BLOCKS, block_histograms, cosine_similarity, jackknife, null_density, set_language, smile_index
from helpers.settings import LANGUAGES
from helpers.teaching import plots
from helpers.teaching.labels import LABELS, label
from helpers.teaching.plots import densities, interventions
from helpers.teaching.plots.layers import DENSITY
from helpers.teaching.plots.style import COLOURS

SIZES = (6, 3, 3)
X = torch.randn(4, 54, 12, generator=torch.Generator().manual_seed(0))  # [layer, sample, feature]
X[0] = 2.0  # a layer of constants: every correlation undefined
H = block_histograms(X, SIZES, bins=20)
ONE, OTHER = block_histograms(X[1], SIZES), block_histograms(X[1] + 5, SIZES)
GIVEN = {"target": H["correlation"], "control": H["cosine"]}
GIVEN["baseline"] = block_histograms(X + 5, SIZES, bins=20)["cosine"]
LAYERS = block_histograms(torch.randn(4, 9, 12, generator=torch.Generator().manual_seed(0)), SIZES)
MAPS = {"QQ": torch.linspace(-0.5, 0.5, 12).view(4, 3), "KK": torch.zeros(4, 1)}  # [layer, head]
GAP = torch.tensor([torch.nan, 1.0, 2.0])
CURVES = {block: {"target": GAP, "control": torch.ones(3), "n": torch.ones(3)} for block in ("QQ", "KK", "VV", "QK")}
TWO = {"a model of a long name": torch.linspace(-0.5, 1, 30), "another": torch.tensor([0.1, torch.nan, 0.3])}
SHARE, SIZE = torch.tensor([0.2, 0.4, 0.5, 0.9]), torch.tensor([3.0, 5.0, 7.0, 9.0])
THREE = jackknife(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.2, lambda x: x.mean(0))
HEADS = (
    {"QQ": THREE, "KK": type(THREE)(*(part[:1] for part in THREE))},
    {"QQ": 0.1, "KK": -0.1},
    {"QQ": torch.linspace(-1, 1, 101), "KK": torch.linspace(0, 1, 101)},
)
KL = 1 + torch.rand(8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # [edit, sentence]
SWAPS = {
    " him": {"unedited": KL[0], "offset_swapped": KL[1] / 5, "random_draw": KL[2]},
    " water": {"unedited": KL[3], "offset_swapped": KL[4] / 5, "random_draw": KL[5]},
}
TINY = 1e-7 * torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0))  # [sentence, head, distance]
PAIRS = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))  # [head, pair]
FIGURES = {
    "blocks": lambda: plots.plot_blocks(**GIVEN, layers=[0, 3], null=True, title="T"),
    "conditions": lambda: plots.plot_conditions({"one": ONE, "other": OTHER, "c": ONE, "d": ONE, "e": ONE}, title="T"),
    "curve": lambda: plots.plot_one_curve(
        [(block, SHARE, h) for block, h in LAYERS["cosine"].items()],
        [(block, SIZE, h) for block, h in LAYERS["correlation"].items()],
        title="T",
    ),
    "attention": lambda: plots.plot_attention([torch.eye(3), torch.ones(3, 3)], ["a", "b", "c"], ["x", "y"], "T"),
    "mask": lambda: plots.plot_matrix_mask(SIZES),
    "similarity": lambda: plots.plot_similarity(cosine_similarity(X[1]), SIZES, "cosine", "T"),
    "pair": lambda: plots.plot_feature_pair(X[1, :, 0], X[1, :, 1], "T"),
    "layers": lambda: plots.plot_layer_histograms(H["correlation"], H["cosine"], title="T"),
    "depth": lambda: plots.plot_depth(CURVES, "smile_index", title="T"),
    "log": lambda: plots.plot_depth(
        dict.fromkeys(("cosine", "correlation"), CURVES["QQ"]), "relative_offset", log=True
    ),
    "models": lambda: plots.plot_relative_depth({"QQ": TWO, "VV": TWO}, "bias_share", title="“của” · n = 54"),
    "one model": lambda: plots.plot_relative_depth({"QQ": TWO}, "bias_share"),
    "maps": lambda: plots.plot_head_maps(MAPS, "smile_index", title="T"),
    "heads": lambda: plots.plot_heads(*HEADS, title="T"),
    "swap": lambda: interventions.plot_swap(SWAPS, controls=("random_draw",), title="T"),
    "doses": lambda: interventions.plot_doses(
        {"Q": {0.5: KL[0], 1.0: KL[1]}}, 0.5, {"Q": KL[2:4]}, {"Q": KL[4:6]}, 2.5
    ),
    "distance": lambda: interventions.plot_distance({0: TINY, 4: TINY}, {0: -TINY, 4: TINY}),
    "rotary": lambda: interventions.plot_pairs({3: {"Q": PAIRS, "K": PAIRS}}),
}


@pytest.fixture(scope="module")
def drawn():
    """{language: {name: figure}}, laid out."""
    figures = {language: {} for language in LANGUAGES}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        every_label = "\n".join(text for row in LABELS.values() for text in row)
        plt.figtext(0, 0, every_label, family="DejaVu Sans").figure.draw_without_rendering()
        plt.close()
        for language in LANGUAGES:
            set_language(language)
            for name, make in FIGURES.items():
                figures[language][name] = make()
                figures[language][name].draw_without_rendering()
                plt.close()
    set_language("en")
    return figures


@pytest.fixture
def figures(drawn):
    return drawn["en"]


def texts_of(figure):
    """Axis labels, panel titles and titles that are seen."""
    found = [text for axis in figure.axes for text in (axis.xaxis.label, axis.yaxis.label, axis.title)]
    found += [text for text in (figure._suptitle, figure._supxlabel, figure._supylabel) if text]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def notes(figure):
    return [[text.get_text() for text in axis.texts] for axis in figure.axes]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def line(axis, name):
    return next(line for line in axis.lines if line.get_label() == name)


def heights(axis, name, bins):
    """Of a histogram as it is drawn: a line with steps, or the outline of an area."""
    if any(line.get_label() == name for line in axis.lines):
        assert line(axis, name).get_drawstyle() == "steps-post"
        return line(axis, name).get_ydata()[:-1]
    (area,) = (area for area in axis.collections if area.get_label() == name)
    corners = area.get_paths()[0].vertices
    here, there = corners[:-1], corners[1:]
    middles = (2 * np.arange(bins) + 1) / bins - 1
    return np.array([here[(here[:, 0] - s) * (there[:, 0] - s) < 0, 1].max() for s in middles])


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_labelled_in_the_language_and_no_texts_touch(drawn, name):
    said = []
    for figure in (drawn[language][name] for language in LANGUAGES):
        x = [figure.get_supxlabel(), *(a.get_xlabel().strip() for a in figure.axes if a.xaxis.label.get_visible())]
        y = [figure.get_supylabel(), *(a.get_ylabel().strip() for a in figure.axes if a.yaxis.label.get_visible())]
        assert (any(x) or name == "swap") and any(y)  # below the swaps stand the words
        boxes = [text.get_window_extent() for text in (*texts_of(figure), *figure.legends)]
        assert all(box.width > 0 for box in boxes)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        said.append({text.get_text() for text in texts_of(figure)})
    assert said[0] != said[1]
    if name in ("blocks", "conditions", "layers"):
        assert figure.get_suptitle() == "T · n = 54 sentences"


def test_densities_integrate_to_one_and_are_nan_without_pairs():
    values = densities(H["correlation"]["QQ"])  # [layer, bins]
    assert values[0].isnan().all()
    assert torch.allclose(values[1:].sum(-1) * 2 / 20, torch.ones(3, dtype=torch.float64))


def test_blocks_draw_the_layers_asked_for_on_one_scale_with_the_null(figures):
    panels = figures["blocks"].axes
    assert len(panels) == 6 and "layer 3" in panels[3].get_ylabel()
    for panel, block in zip(panels[3:], ("QQ", "KK", "VV"), strict=True):
        for name, histograms in GIVEN.items():
            assert heights(panel, label(name), 20) == pytest.approx(densities(histograms[block])[3].numpy())
        s, density = line(panel, "null distribution").get_data()
        assert density == pytest.approx(null_density(s, 54, "correlation"))
    ((low, high),) = {panel.get_ylim() for panel in panels}
    assert low == 0 and high > 10  # all cosines of the layer of constants are in one bin
    ((left, right),) = {panel.get_xlim() for panel in panels}
    assert left < -1 and right > 1  # the outer bins are visible
    assert notes(figures["blocks"]) == [[label("no_pairs")]] * 3 + [[]] * 3


def test_conditions_show_each_histogram_under_its_name(figures):
    axes = figures["conditions"].axes
    for axis, (measure, block) in zip(axes, itertools.product(ONE, ("QQ", "KK", "VV")), strict=True):
        assert axis.xaxis.label.get_visible() and axis.get_xlabel() == label(measure)
        for name, result in {"one": ONE, "other": OTHER, "e": ONE}.items():
            assert heights(axis, name, 100) == pytest.approx(densities(result[measure][block]).numpy())
    for row in (axes[:3], axes[3:]):
        assert len({panel.get_ylim() for panel in row}) == 1 and row[0].get_ylim()[0] == 0


def test_one_curve_draws_every_point_and_the_null_at_its_number(figures):
    curves = []
    for axis, at, measure in zip(figures["curve"].axes, (SHARE, SIZE), ("cosine", "correlation"), strict=True):
        (points,) = (points for points in axis.collections if len(points.get_offsets()))
        colours = np.array([to_hex(colour).upper() for colour in points.get_facecolors()])
        for block in BLOCKS:
            expected = torch.stack([at, smile_index(LAYERS[measure][block])], dim=1).numpy()
            assert np.asarray(points.get_offsets())[colours == COLOURS[block]] == pytest.approx(expected)
        curves.append(line(axis, "null distribution").get_xydata())
    assert legend(figures["curve"]) == [*BLOCKS, "null distribution"]
    assert np.interp(3**-0.5, *curves[0].T) == pytest.approx(0, abs=1e-3)  # three sentences: uniform
    assert np.interp(4, *curves[1].T) == pytest.approx(0, abs=1e-3)
    assert (np.diff(curves[0][:, 1]) > 0).all() and (np.diff(curves[1][:, 1]) < 0).all()


def test_matrices_are_drawn_upright_on_the_whole_range(figures):
    for name, quantity, limits, matrix in (
        ("similarity", "cosine similarity", (-1, 1), cosine_similarity(X[1]).numpy()),
        ("attention", "attention weight", (0, 1), np.eye(3)),
    ):
        panel, bar = figures[name].axes[0], figures[name].axes[-1]
        assert panel.collections[0].get_clim() == limits and panel.get_ylim() == (len(matrix), 0)
        assert np.asarray(panel.collections[0].get_array()).reshape(matrix.shape) == pytest.approx(matrix)
        assert bar.get_ylabel() == quantity
    for axis in (figures["attention"].axes[0].xaxis, figures["attention"].axes[0].yaxis):
        assert [text.get_text() for text in axis.get_ticklabels()] == ["a", "b", "c"]


def test_heat_maps_are_in_order_on_one_scale_and_grey_without_pairs(figures):
    for name, quantity, limits, n in (
        ("layers", "density", (DENSITY.vmin, DENSITY.vmax), 2 * len(BLOCKS)),
        ("maps", "smile index S", (-1, 1), 2),
    ):
        images = [image for axis in figures[name].axes for image in axis.images]
        assert len(images) == n and {image.get_clim() for image in images} == {limits}
        assert figures[name].axes[-1].get_ylabel() == quantity
    assert torch.equal(torch.as_tensor(figures["maps"].axes[0].images[0].get_array().data), MAPS["QQ"].T)
    assert DENSITY(0.5) == pytest.approx(0.5)  # the middle of the colours is the uniform distribution
    image = figures["layers"].axes[0].images[0]
    shown = np.ma.filled(image.get_array(), np.nan)
    expected = densities(H["correlation"]["QQ"]).unflatten(-1, (-1, 2)).mean(-1).numpy()
    assert np.isnan(shown[0]).all() and shown[1:] == pytest.approx(np.maximum(expected[1:], DENSITY.vmin / 2))
    assert image.get_extent() == [-1, 1, 3.5, -0.5] and legend(figures["layers"]) == ["every pair is undefined"]
    figure = plots.plot_layer_histograms(H["cosine"])
    assert not figure.legends
    plt.close(figure)


def test_curves_share_their_scale_and_leave_a_gap_at_nan(figures):
    panels = [axis for axis in figures["depth"].axes if axis.lines]
    assert len(panels) == 4 and len({axis.get_ylim() for axis in panels}) == 1
    assert panels[0].lines[0].get_ydata() == pytest.approx(GAP.numpy(), nan_ok=True)
    assert legend(figures["depth"]) == ["target token", "control token", "n"]
    assert figures["log"].axes[0].get_yscale() == "log"


def test_models_of_any_depth_start_and_end_at_the_same_places(figures):
    assert len({axis.get_ylim() for axis in figures["models"].axes}) == 1
    for axis in figures["models"].axes:
        places = [curve.get_xdata() for curve in axis.lines[:2]]
        assert [(len(x), x[0], x[-1]) for x in places] == [(30, 0, 1), (3, 0, 1)]
    assert legend(figures["models"]) == list(TWO)


def test_heads_stand_beside_the_pooled_value_and_the_random_groups(figures):
    axis, other = figures["heads"].axes
    dots, _, (bars,) = axis.containers[0]
    assert dots.get_ydata() == pytest.approx(THREE.estimate.numpy())
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(torch.stack([THREE.low, THREE.high], dim=-1).numpy())
    band = next(patch for patch in axis.patches if patch.get_label() == "random groups, middle 90%")
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((-0.9, 0.9))
    assert set(line(axis, "all heads pooled").get_ydata()) == {0.1} and axis.get_ylim() == other.get_ylim()


def test_edits_are_drawn_at_their_means_with_their_controls(figures):
    axis = figures["swap"].axes[0]
    names = [text.get_text() for text in axis.get_xticklabels()]
    assert names == list(SWAPS) and legend(figures["swap"])[1] == "offset swapped (K and V)"
    shown = [float(y) for mark in axis.lines if mark.get_marker() in "oD" for y in mark.get_ydata()]
    for kl in (kl for edits in SWAPS.values() for kl in edits.values()):
        assert np.isclose(shown, float(kl.mean())).any()
    axis = figures["doses"].axes[0]
    assert [list(mark.get_ydata()) for mark in axis.lines if mark.get_linestyle() == "--"] == [[2.5, 2.5]]
    for marker, controls in (("D", KL[2:4]), ("s", KL[4:6])):
        (marks,) = (mark for mark in axis.lines if mark.get_marker() == marker)
        assert marks.get_ydata() == pytest.approx(controls.mean(dim=1).numpy())


def test_scores_and_shares_are_drawn_per_head_on_an_honest_scale(figures):
    axis = figures["distance"].axes[0]
    assert len(axis.lines) == 2 * 3 + 1 and axis.get_ylim() == (-1, 1)  # rounding does not fill the panel
    assert axis.lines[3].get_ydata() == pytest.approx(TINY[:, 0].mean(dim=0).numpy())
    axis = figures["rotary"].axes[0]
    assert axis.lines[0].get_ydata() == pytest.approx(PAIRS.mean(dim=0).numpy()) and len(axis.collections) == 2


FOREIGN = {  # what stands in the figure for the text of somebody else
    "$$": "$$",
    r"$\frac$": r"$\frac$",
    r"\$5_{x}^% #&~": r"\$5_{x}^% #&~",
    "_hidden": "\u200b_hidden",
    "": '""',
    "  ": '"  "',
    "a\nb\t\x00": r"a\nb\t\x00",
    "\u202eher\u200b": r"\u202eher\u200b",
    "\ud800": r"\ud800",
    "月": r"\u6708",
    "مرحبا 😀": "مرحبا 😀",
    "x" * 5000: f"{'x' * 10}…(+4980)…{'x' * 10}",
}


def test_text_of_others_is_drawn_as_it_is_whatever_it_holds():
    def tick_labels(axis):
        return [text.get_text() for text in axis.get_ticklabels()]

    n, sets, shown = len(FOREIGN), dict.fromkeys([*FOREIGN][:5], ONE), [*FOREIGN.values()]
    swaps = {word: {"_edit": KL[0], "$$": KL[1]} for word in FOREIGN}
    models = {"QQ": {"_model $$ " + "x" * 40: GAP, "$$\n" + "x" * 40: GAP}}
    with warnings.catch_warnings(), plt.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True}):
        warnings.simplefilter("error")
        of = {
            "tokens": plots.plot_attention([torch.eye(n)], FOREIGN, ["$$"], "$$"),
            "words": interventions.plot_swap(swaps, title="$x$\n" + "long words " * 30),
            "names": plots.plot_conditions(sets, measures=("cosine",)),
            "models": plots.plot_relative_depth(models, r"$\frac$", title=r"$\frac$"),
            "similarity": plots.plot_similarity(torch.eye(12), SIZES, "$$", "$$"),
            "pair": plots.plot_feature_pair(X[1, :, 0], X[1, :, 1], "$$"),
            "maps": plots.plot_head_maps({"$$": MAPS["QQ"]}, "$$"),
        }
    for name, figure in of.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in (figure._suptitle, *figure.legends) if text]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes), name
        assert not any("mathdefault" in t for axis in figure.axes for t in tick_labels(axis.yaxis)), name
        plt.close(figure)
    assert tick_labels(of["tokens"].axes[0].xaxis) == tick_labels(of["tokens"].axes[0].yaxis) == shown
    assert tick_labels(of["words"].axes[0].xaxis) == shown and legend(of["words"]) == ["\u200b_edit", "$$"]
    assert legend(of["names"])[:-1] == shown[:5] and len(legend(of["models"])) == 2
    assert of["similarity"].axes[0].get_title() == of["maps"].axes[0].get_title() == "$$"


def test_readers_own_settings_are_left_alone():
    own = {"axes.titlesize": 31, "font.family": ["serif"], "interactive": True, "text.usetex": True}
    with plt.rc_context(own):
        before = dict(plt.rcParams)
        plt.close(plots.plot_matrix_mask(SIZES))
        assert dict(plt.rcParams) == before and plt.isinteractive()


def test_every_label_is_given_in_the_language_in_use():
    for i in (0, 1):
        set_language(LANGUAGES[i])
        for key, texts in LABELS.items():
            assert label(key) == texts[i] == unicodedata.normalize("NFC", texts[i].strip()) != "", key
            assert len(texts) == len(LANGUAGES)
        assert [label(key) for key in ("layer", "QK")] == [["tầng", "layer"][i], "QK"]  # unknown: its own label
