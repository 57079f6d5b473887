"""Figures with a slider (ipywidgets), one for each idea that is better moved than read.

In a notebook an explorer takes two cells, `explorer.widget` and `explorer.figure`: the second is a still image where no
kernel runs.  These figures do without seaborn, which draws anew where an explorer only moves what is drawn.
"""

import functools
import io

import numpy as np
import torch
from ipywidgets import HTML, FloatSlider, Image, IntSlider, Layout, ToggleButtons, VBox
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from helpers.baselines import null_density
from helpers.masks import BLOCKS, PARTS, check_block, check_sizes, n_block_pairs, part_slices
from helpers.settings import get_language, localised, message, say
from helpers.similarity import BlockHistograms, block_histograms, cosine_similarity, pearson_correlation
from helpers.statistics import smile_index
from helpers.teaching.labels import label
from helpers.teaching.plots.palette import COLOURS, FILLED, LINES
from helpers.teaching.plots.small import draw_mask
from helpers.teaching.plots.style import densities, name_panel, similarity_axis, spoken, styled

WIDE = {"style": {"description_width": "initial"}, "layout": Layout(width="32em", max_width="100%")}
# Image has no alternative text, and in ipywidgets 8.1 one with a tooltip fails in the browser.
UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"
N_FEATURES, N_SENTENCES = 200, 54  # of the simulation with few sentences
SAME_PART = ("QQ", "KK", "VV")


class Explorer:
    """A selector (slider or buttons) and one figure that follows it.

    Attributes: `widget` for a notebook to show, made of the `selector`, the `image` (PNG) and its state in `words`, for
    screen readers; `figure`, the matplotlib figure, in the state of the selector.
    """

    def __init__(self, figure, selector, draw, what):
        """`draw(value)` updates the artists of `figure` and returns the state in words; `what` names the picture."""
        self.figure, self.selector, self._draw, self._what = figure, selector, draw, what
        self._language = get_language()
        self._title = figure.suptitle(draw(selector.value), fontsize=11)
        spoken(figure)
        self.image = Image(format="png", layout=Layout(max_width="100%", align_self="flex-start"))
        self.words = HTML(layout=Layout(height="0", margin="0"))
        self._show(selector.value)
        selector.observe(lambda change: self._show(change["new"]), names="value")
        self.widget = VBox([selector, self.image, self.words])

    def _show(self, value):
        state = localised(self._draw(value), self._language).replace("-", "−")  # the minus of the axes
        self._title.set_text(state)
        self.image.value = self.figure.png(compress_level=1)  # a fast PNG, not a small one
        self.words.value = f'<span style="{UNSEEN}">{self._what}: {state}</span>'


class StillFigure(Figure):
    """A figure that a notebook shows only as the value of a cell, whether or not pyplot was used before."""

    def png(self, **options):
        written = io.BytesIO()
        self.canvas.print_png(written, pil_kwargs=options)
        return written.getvalue()

    _repr_png_ = png


def _panels(n=1, width=6.4, height=3.4):
    """A figure and its axes, in a fixed layout: arranging it anew at each step would be slow."""
    figure = StillFigure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, n, sharex=True, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.7 / width, right=1 - 0.2 / width, bottom=0.9 / height, top=0.88, wspace=0.08)
    return figure, axes


def _label_histograms(figure, axes, measure, highest):
    """Ticks and labels of panels with one scale, and the legend of the first below them."""
    for axis in axes:
        similarity_axis(axis)
    axes[0].set(ylim=(0, highest), ylabel=label("density"))
    axes[0].locator_params(axis="y", nbins=4)
    axes[len(axes) // 2].set_xlabel(label(measure))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False)


@styled
def offset_explorer(x):
    """Cosine and correlation of two features while the slider adds the same offset to both.

    x is `[token, 2]`, at least three tokens; the slider goes from -5 to 5 in its units.  `ValueError`: another shape,
    or a feature that is constant.

    >>> offset_explorer(torch.randn(54, 2, generator=torch.Generator().manual_seed(0))).selector.value
    2.0
    """
    x = torch.as_tensor(x, dtype=torch.float64).cpu()
    if x.ndim != 2 or x.shape[0] < 3 or x.shape[1] != 2:
        raise ValueError(message("offset_pair", came=tuple(x.shape)))
    if pearson_correlation(x)[0, 1].isnan():
        raise ValueError(message("constant_feature"))

    def similarities(offsets):
        shifted = x + torch.as_tensor(offsets, dtype=torch.float64)[:, None, None]  # [offset, sample, feature]
        return cosine_similarity(shifted)[:, 0, 1].numpy(), pearson_correlation(shifted)[:, 0, 1].numpy()

    figure, (axis,) = _panels()
    offsets, marks = np.linspace(-5, 5, 201), []
    looks = ("cosine", COLOURS["Q"], "-"), ("correlation", COLOURS["K"], "--")
    for (name, colour, line), values in zip(looks, similarities(offsets), strict=True):
        axis.plot(offsets, values, color=colour, ls=line, lw=2, label=label(name))
        marks += axis.plot([], [], "o", color=colour, ms=8)
    axis.axhline(0, color="black", lw=0.6)
    axis.set(xlim=(-5, 5), ylim=(-1.05, 1.05), xlabel=label("offset"), ylabel=label("similarity"))
    figure.legend(loc="lower center", ncols=2, frameon=False)

    def draw(value):
        at = [float(values[0]) for values in similarities([value])]
        for mark, height in zip(marks, at, strict=True):
            mark.set_data([value], [height])
        return f"{short} {value:+.2f} · cos {at[0]:+.2f} · r {at[1]:+.2f}"

    short = label("offset_short")
    slider = FloatSlider(2.0, min=-5, max=5, step=0.25, description=short, readout=False, **WIDE)
    return Explorer(figure, slider, draw, f"{label('cosine')}, {label('correlation')}")


@styled
def mask_explorer(sizes):
    """The coded mask with the cells of one block lit; buttons choose the block.

    `sizes` are the features of Q, K and V (`ValueError`: not three whole positive numbers).  Of a large mask evenly
    spaced cells are drawn.

    >>> mask_explorer((2, 1, 1)).selector.options
    ('QQ', 'KK', 'VV', 'QK', 'QV', 'KV')
    """
    sizes = check_sizes(sizes)
    figure, (axis,) = _panels(width=4.4, height=4.6)
    image, codes = draw_mask(axis, sizes)
    axis.set_aspect("auto")
    pairs, code_name, pairs_name = n_block_pairs(sizes), label("code"), label("pairs")

    def draw(block):
        image.set_alpha(np.where(codes == BLOCKS[block], 1, 0.2))
        return f"{block} · {code_name} {BLOCKS[block]} · {pairs_name}: {pairs[block]:,}"

    buttons = ToggleButtons(options=tuple(BLOCKS), description=label("block"), style={"button_width": "3.5em"})
    return Explorer(figure, buttons, draw, say("mặt nạ mã số", "coded mask"))


@styled
def small_n_explorer():
    """Correlations of independent Gaussian features over n sentences, on their exact density.

    The features are drawn once, for 54 sentences; the slider decides how many of these are used.

    >>> small_n_explorer().selector.min
    3
    """
    # K and V get one feature each because a histogram wants three parts; only QQ is looked at
    sizes = (N_FEATURES, 1, 1)
    x = torch.randn(N_SENTENCES, sum(sizes), generator=torch.Generator().manual_seed(0))  # [sentence, feature]

    def histogram(n):
        return block_histograms(x[:n], sizes, measures="correlation", bins=50)["correlation"]["QQ"]

    figure, axes = _panels()
    shown = histogram(3)
    s = np.linspace(-0.995, 0.995, 399)  # at n = 3 the density is infinite at the ends
    highest = max(float(densities(shown).max()), float(null_density(0.0, N_SENTENCES, "correlation")))
    name = say("chiều độc lập (mô phỏng)", "independent features (simulated)")
    bars = axes[0].stairs(densities(shown), shown.edges, color=COLOURS["Q"], label=name, **FILLED)
    (curve,) = axes[0].plot(s, s, color="black", lw=1.2, label=label("null"))
    _label_histograms(figure, axes, "correlation", 1.1 * highest)
    sentences, smile = label("sentences"), label("smile_index")

    def draw(n):
        now = histogram(n)
        bars.set_data(densities(now).numpy())
        curve.set_data(s, null_density(s, n, "correlation"))
        return f"n = {n} {sentences} · {smile} = {float(smile_index(now)):+.2f}"

    slider = IntSlider(3, min=3, max=N_SENTENCES, description=label("n_sentences"), **WIDE)
    return Explorer(figure, slider, draw, f"{label('correlation')}, {label('density')}")


@styled
def centring_explorer(x, sizes, block="QQ"):
    """Histogram of the cosines of one block while the slider takes the mean out: x - a * mean.

    At a = 1 the cosine is the correlation.  x is `[sample, feature]`, one layer, at least three tokens; `sizes` are the
    features of Q, K and V, `block` a name in `BLOCKS`.  `ValueError`: another shape, sizes that do not add up to the
    features of x, an unknown block.

    >>> centring_explorer(torch.randn(54, 8), (4, 2, 2)).selector.value
    0.0
    """
    x = torch.as_tensor(x).detach().cpu()
    if x.ndim != 2 or x.shape[0] < 3:
        raise ValueError(message("centred_layer", came=tuple(x.shape)))
    sizes = check_sizes(sizes, x.shape[1])
    check_block(block)
    # of a part that the block does not need one feature is enough
    at = [part if name in block else slice(part.start, part.start + 1) for name, part in part_slices(sizes).items()]
    x = torch.cat([x[:, part] for part in at], dim=1)  # [sample, feature]
    sizes = [size if name in block else 1 for name, size in zip(PARTS, sizes, strict=True)]
    constant = pearson_correlation(x.T.unsqueeze(-1)).isnan().flatten()  # [feature], each one with itself
    mean = x.double().mean(dim=0)
    deviation = (x.double() - mean).masked_fill(constant, 0)  # without its mean a constant is 0, not rounding noise
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

    @functools.cache
    def histogram(a):
        left = (deviation + (1 - a) * mean).to(dtype)  # [sample, feature]
        return block_histograms(left, sizes, measures="cosine")["cosine"][block]

    figure, axes = _panels()
    steps = [densities(histogram(step / 20)).nan_to_num() for step in range(21)]
    highest, s = max(float(step.max()) for step in steps), histogram(0.0).centers
    bars = axes[0].stairs(steps[0], histogram(0.0).edges, color=COLOURS[block], label=block, **FILLED)
    at_the_end = null_density(s, len(x), "correlation")  # the null of a = 1
    axes[0].plot(s, at_the_end, color="black", lw=1, ls=":", label=f"{label('null')} (a = 1)")
    _label_histograms(figure, axes, "cosine", 1.1 * max(highest, at_the_end.max()))
    smile, sentences = label("smile_index"), label("sentences")

    def draw(a):
        now = histogram(a)
        bars.set_data(densities(now).nan_to_num().numpy())
        return f"{block} · a = {a:.2f} · {smile} = {float(smile_index(now)):+.2f} · n = {len(x)} {sentences}"

    slider = FloatSlider(0, min=0, max=1, step=0.05, description=label("taken_out"), readout=False, **WIDE)
    return Explorer(figure, slider, draw, f"{label('cosine')}, {label('density')}")


@styled
def layer_explorer(target, control):
    """Histograms of QQ, KK and VV on the exact null, one layer at a time, with the smile index S; one scale for all.

    Both arguments are `BlockHistograms` with counts `[layer, bins]`; `ValueError`: anything else, or different
    measures, layers or bins.

    >>> histograms = block_histograms(torch.randn(3, 54, 8), (4, 2, 2))["cosine"]
    >>> layer_explorer(histograms, histograms).selector.max
    2
    """
    given = {"target": target, "control": control}
    for name, histograms in given.items():
        if not isinstance(histograms, BlockHistograms):
            raise ValueError(message("no_histograms", name=name, came=type(histograms).__name__))  # noqa: TRY004
        came, first = (f"{h.measure}, counts {tuple(h['QQ'].counts.shape)}" for h in (histograms, target))
        if came != first or histograms["QQ"].counts.ndim != 2:
            raise ValueError(message("other_histograms", name=name, came=came, first=first))
    height = {(name, block): densities(given[name][block]).numpy(force=True) for name in given for block in SAME_PART}
    smile = {block: smile_index(target[block]).tolist() for block in SAME_PART}  # [layer]
    # One scale for all layers.  Where most features are constant one bin holds nearly all pairs: it is cut, and says so.
    highest = np.quantile(np.nan_to_num([values.max(-1) for values in height.values()]).max(0), 0.9)
    edges, s = (part.numpy(force=True) for part in (target.edges, target["QQ"].centers))
    null = null_density(s, target.n_samples, target.measure)
    top = 1.15 * float(max(highest, null.max()))
    figure, axes = _panels(3, width=9.6)
    lines, notes = {}, {}
    for block, axis in zip(SAME_PART, axes, strict=True):
        for name, look in zip(given, ({"color": COLOURS[block], **FILLED}, *LINES)):
            lines[name, block] = axis.stairs(np.zeros(len(s)), edges, label=label(name), **look)
        axis.plot(s, null, color="black", lw=1, ls=":", label=label("null"))
        name_panel(axis, block, y=0.9)
        notes[block] = axis.text(0.5, 0.6, "", transform=axis.transAxes, ha="center", fontsize=9)
    _label_histograms(figure, axes, target.measure, top)
    layer_name, empty, cut = label("layer"), label("no_pairs"), say("bị cắt, cao đến {:.0f}", "cut off, reaches {:.0f}")
    ending = f"n = {target.n_samples} {label('sentences')} · {label('smile_index')}"

    def draw(layer):
        for at, line in lines.items():
            line.set_data(np.nan_to_num(height[at][layer]))
        for block, note in notes.items():
            tallest = height["target", block][layer].max()  # NaN without any pair
            note.set_text(empty if np.isnan(tallest) else cut.format(tallest) if tallest > top else "")
        indices = " · ".join(f"{block} {smile[block][layer]:+.2f}" for block in SAME_PART)
        return f"{layer_name} {layer} · {ending}: {indices}"

    n_layer = len(target["QQ"].counts)
    slider = IntSlider(n_layer // 10, min=0, max=n_layer - 1, description=layer_name, **WIDE)
    return Explorer(figure, slider, draw, f"{label(target.measure)}, {label('density')}")
