"""Figures: labelled in both languages, honest scales, every letter drawn, gaps left as gaps, settings left alone."""

import itertools
import tomllib
import unicodedata
from pathlib import Path

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
from helpers.teaching.plots.palette import COLOURS

pytestmark = pytest.mark.filterwarnings("error")  # such as that of a missing glyph
plt.switch_backend("agg")
SIZES = (6, 3, 3)
X = torch.randn(4, 54, 12, generator=torch.Generator().manual_seed(0))  # [layer, sample, feature]
X[0] = 2.0  # a layer of constants: every correlation undefined
H = block_histograms(X, SIZES, bins=20)
ONE, OTHER = block_histograms(X[1], SIZES), block_histograms(X[1] + 5, SIZES)
SHIFTED = block_histograms(X + 5, SIZES, bins=20)["cosine"]
GIVEN = {"target": H["correlation"], "control": H["cosine"], "baseline": SHIFTED}
LAYERS = block_histograms(torch.randn(4, 9, 12, generator=torch.Generator().manual_seed(0)), SIZES)
MAPS = {"QQ": torch.linspace(-0.5, 0.5, 12).view(4, 3), "KK": torch.zeros(4, 1)}  # [layer, head]
GAP = torch.tensor([torch.nan, 1.0, 2.0])
CURVES = {block: {"target": GAP, "control": torch.ones(3), "n": torch.ones(3)} for block in ("QQ", "KK", "VV", "QK")}
TWO = {"a model of a long name": torch.linspace(-0.5, 1, 30), "another": torch.tensor([0.1, torch.nan, 0.3])}
SHARE, SIZE = torch.tensor([0.2, 0.4, 0.5, 0.9]), torch.tensor([3.0, 5.0, 7.0, 9.0])
THREE = jackknife(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.2, lambda x: x.mean(0))
HEADS = {"QQ": THREE, "KK": type(THREE)(*(part[:1] for part in THREE))}
CUTS = {"QQ": torch.linspace(-1, 1, 101), "KK": torch.linspace(0, 1, 101)}
KL = 1 + torch.rand(8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # [edit, sentence]
EDITS = ("unedited", "offset_swapped", "random_draw")
SWAPS = {" him": dict(zip(EDITS, KL)), " water": dict(zip(EDITS, KL[3:]))}
TINY = 1e-7 * torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0))  # [sentence, head, distance]
PAIRS = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))  # [head, pair]
CALLS = tomllib.loads(Path(__file__).with_name("figures.toml").read_text(encoding="utf-8"))
FOREIGN = CALLS["texts"] | {"\ud800": r"\ud800", "x" * 5000: f"{'x' * 10}…(+4980)…{'x' * 10}"}


def draw(table):
    """{name: figure} of one table of figures.toml."""
    figures = {name: eval(call, vars(plots) | vars(interventions) | globals()) for name, call in CALLS[table].items()}
    plt.close("all")
    return figures


@pytest.fixture(scope="module")
def figures():
    """{name: figure, "name vi": the same in Vietnamese}, laid out."""
    set_language("vi")
    figures = {f"{name} vi": figure for name, figure in draw("figures").items()}
    set_language("en")
    figures |= draw("figures")
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def tick_labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def line(axis, name):
    return next(line for line in axis.lines if line.get_label() == name)


def heights(axis, name, bins):
    """Of a histogram as it is drawn: a line with steps, or an area, whose outline ends with the steps, backwards."""
    for area in axis.collections:
        if area.get_label() == name:
            return area.get_paths()[0].vertices[::-1][1 : 2 * bins : 2, 1]
    assert line(axis, name).get_drawstyle() == "steps-post"
    return line(axis, name).get_ydata()[:-1]


@pytest.mark.parametrize("name", CALLS["figures"])
def test_figure_is_labelled_in_the_language_and_no_texts_touch(figures, name):
    said = []
    for figure in (figures[f"{name} vi"], figures[name]):
        x = [figure.get_supxlabel(), *(a.get_xlabel().strip() for a in figure.axes if a.xaxis.label.get_visible())]
        y = [figure.get_supylabel(), *(a.get_ylabel().strip() for a in figure.axes if a.yaxis.label.get_visible())]
        assert (any(x) or name == "swap") and any(y)  # below the swaps stand the words
        texts = [text for axis in figure.axes for text in (axis.xaxis.label, axis.yaxis.label, axis.title)]
        texts += filter(None, (figure._suptitle, figure._supxlabel, figure._supylabel))
        texts = [text for text in texts if text.get_visible() and text.get_text().strip()]
        boxes = [text.get_window_extent() for text in (*texts, *figure.legends)]
        assert all(box.width > 0 for box in boxes)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        said.append({text.get_text() for text in texts})
    assert said[0] != said[1]
    if name in ("blocks", "conditions", "layers"):
        assert figure.get_suptitle() == "T · n = 54 sentences"


def test_histograms_stand_under_their_names_on_one_scale_with_the_null(figures):
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
    assert [[note.get_text() for note in panel.texts] for panel in panels] == [[label("no_pairs")]] * 3 + [[]] * 3

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


def test_matrices_are_upright_on_one_scale_and_grey_without_pairs(figures):
    for name, quantity, limits, n in (
        ("similarity", "cosine similarity", (-1, 1), 1),
        ("attention", "attention weight", (0, 1), 2),
        ("layers", "density", (DENSITY.vmin, DENSITY.vmax), 2 * len(BLOCKS)),
        ("maps", "smile index S", (-1, 1), 2),
    ):
        *panels, bar = figures[name].axes
        shown = [matrix for axis in panels for matrix in (*axis.images, *axis.collections)]
        assert len(shown) == n and {matrix.get_clim() for matrix in shown} == {limits}
        assert bar.get_ylabel() == quantity
    for name, matrix in (("similarity", cosine_similarity(X[1]).numpy()), ("attention", np.eye(3))):
        panel = figures[name].axes[0]
        assert panel.get_ylim() == (len(matrix), 0)
        assert np.asarray(panel.collections[0].get_array()).reshape(matrix.shape) == pytest.approx(matrix)
    assert tick_labels(panel.xaxis) == tick_labels(panel.yaxis) == ["a", "b", "c"]
    assert torch.equal(torch.as_tensor(figures["maps"].axes[0].images[0].get_array().data), MAPS["QQ"].T)
    assert DENSITY(0.5) == pytest.approx(0.5)  # the middle of the colours is the uniform distribution
    image = figures["layers"].axes[0].images[0]
    shown = np.ma.filled(image.get_array(), np.nan)
    expected = densities(H["correlation"]["QQ"]).unflatten(-1, (-1, 2)).mean(-1).numpy()
    assert np.isnan(shown[0]).all() and shown[1:] == pytest.approx(np.maximum(expected[1:], DENSITY.vmin / 2))
    assert image.get_extent() == [-1, 1, 3.5, -0.5] and legend(figures["layers"]) == ["every pair is undefined"]
    assert not figures["all defined"].legends


def test_curves_share_their_scale_and_leave_a_gap_at_nan(figures):
    panels = [axis for axis in figures["depth"].axes if axis.lines]
    assert len(panels) == 4 and len({axis.get_ylim() for axis in panels}) == 1
    assert panels[0].lines[0].get_ydata() == pytest.approx(GAP.numpy(), nan_ok=True)
    assert legend(figures["depth"]) == ["target token", "control token", "n"]
    assert figures["log"].axes[0].get_yscale() == "log"
    # models of any depth start and end at the same places
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


def test_edits_scores_and_shares_are_drawn_at_their_means(figures):
    axis = figures["swap"].axes[0]
    assert tick_labels(axis.xaxis) == list(SWAPS) and legend(figures["swap"])[1] == "offset swapped (K and V)"
    shown = [float(y) for mark in axis.lines if mark.get_marker() in "oD" for y in mark.get_ydata()]
    for kl in (kl for edits in SWAPS.values() for kl in edits.values()):
        assert np.isclose(shown, float(kl.mean())).any()
    axis = figures["doses"].axes[0]
    assert [list(mark.get_ydata()) for mark in axis.lines if mark.get_linestyle() == "--"] == [[2.5, 2.5]]
    for marker, controls in (("D", KL[2:4]), ("s", KL[4:6])):
        (marks,) = (mark for mark in axis.lines if mark.get_marker() == marker)
        assert marks.get_ydata() == pytest.approx(controls.mean(dim=1).numpy())
    axis = figures["distance"].axes[0]
    assert len(axis.lines) == 2 * 3 + 1 and axis.get_ylim() == (-1, 1)  # rounding does not fill the panel
    assert axis.lines[3].get_ydata() == pytest.approx(TINY[:, 0].mean(dim=0).numpy())
    axis = figures["rotary"].axes[0]
    assert axis.lines[0].get_ydata() == pytest.approx(PAIRS.mean(dim=0).numpy()) and len(axis.collections) == 2


def test_text_of_others_is_drawn_as_it_is_whatever_it_holds():
    with plt.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True}):
        of = draw("foreign")
    for name, figure in of.items():
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in (figure._suptitle, *figure.legends) if text]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes), name
        assert not any("mathdefault" in t for axis in figure.axes for t in tick_labels(axis.yaxis)), name
    shown = [*FOREIGN.values()]
    assert tick_labels(of["tokens"].axes[0].xaxis) == tick_labels(of["tokens"].axes[0].yaxis) == shown
    assert tick_labels(of["words"].axes[0].xaxis) == shown and legend(of["words"]) == ["\u200b_edit", "$$"]
    assert legend(of["names"])[:-1] == shown[:5] and len(legend(of["models"])) == 2
    assert of["similarity"].axes[0].get_title() == of["maps"].axes[0].get_title() == "$$"


def test_readers_own_settings_are_left_alone():
    with plt.rc_context({"axes.titlesize": 31, "font.family": ["serif"], "interactive": True, "text.usetex": True}):
        before = dict(plt.rcParams)
        plt.close(plots.plot_matrix_mask(SIZES))
        assert dict(plt.rcParams) == before and plt.isinteractive()


def test_every_label_is_given_in_the_language_in_use():
    for i, language in enumerate(LANGUAGES):  # the last is English
        set_language(language)
        for key, texts in LABELS.items():
            assert label(key) == texts[i] == unicodedata.normalize("NFC", texts[i].strip()) != "", key
        assert [label(key) for key in ("layer", "QK")] == [["tầng", "layer"][i], "QK"]  # unknown: its own label
    every_label = "\n".join(text for row in LABELS.values() for text in row)
    plt.figtext(0, 0, every_label, family="DejaVu Sans").figure.draw_without_rendering()  # no glyph is missing
    plt.close()
