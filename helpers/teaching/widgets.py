"""Figures with a slider (ipywidgets), one for each idea that is better moved than read.

In a notebook an explorer takes two cells, `explorer.widget` and `explorer.figure`: the second is
stored as a still image and stays where no Jupyter kernel runs.
"""

import functools
import io

import numpy as np
import torch
from ipywidgets import HTML, FloatSlider, Image, IntSlider, Layout, ToggleButtons, VBox
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from helpers.baselines import null_density
from helpers.masks import BLOCKS, PARTS, check_sizes, matrix_mask, n_block_pairs, part_slices
from helpers.settings import say
from helpers.similarity import BlockHistograms, block_histograms, cosine_similarity, pearson_correlation
from helpers.statistics import smile_index
from helpers.teaching.labels import label
from helpers.teaching.plots.style import BASELINE, COLOURS, densities, mark_parts, styled

WIDE = {"style": {"description_width": "initial"}, "layout": Layout(width="32em", max_width="100%")}
# Image has no alternative text, and in ipywidgets 8.1 one with a tooltip fails in the browser.
UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"
MOST_CELLS = 400  # of a mask along one side; more than that are fewer than two pixels each
N_FEATURES = 200  # of the simulation with few sentences


class Explorer:
    """One control and one figure that follows it.

    Attributes:
        widget: the control above the figure, for a notebook to show.
        figure: the matplotlib figure, in the state of the control.
        control: the slider or the buttons.
        image: the picture in the widget (PNG).
        words: its state as text, for screen readers.
    """

    def __init__(self, figure, control, draw, what):
        """`draw(value)` updates the artists of `figure` and returns the state in words; `what` names the picture."""
        self.figure, self.control, self._draw, self._what = figure, control, draw, what
        self._title = figure.suptitle("", fontsize=11)
        self._canvas = FigureCanvasAgg(figure)
        self.image = Image(format="png", layout=Layout(max_width="100%", align_self="flex-start"))
        self.words = HTML(layout=Layout(height="0", margin="0"))
        self._show(control.value)
        control.observe(lambda change: self._show(change["new"]), names="value")
        self.widget = VBox([control, self.image, self.words])

    def redraw(self, value):
        """Move the control to `value`, and the figure with it."""
        control = self.control
        options = getattr(control, "options", None)
        if (value not in options) if options else not control.min <= value <= control.max:
            allowed = f"one of {', '.join(options)}" if options else f"{control.min} to {control.max}"
            raise ValueError(f"{value!r} is not on the control: expected {allowed}")
        control.value = value

    def _show(self, value):
        state = self._draw(value).replace("-", "−")  # the minus of the axes and of the readout
        self._title.set_text(state)
        png = io.BytesIO()
        self._canvas.print_png(png, pil_kwargs={"compress_level": 1})  # a fast PNG, not a small one
        self.image.value = png.getvalue()
        self.words.value = f'<span style="{UNSEEN}">{self._what}: {state}</span>'


class StillFigure(Figure):
    """A figure that a notebook shows only as the value of a cell, whether or not pyplot was used before."""

    def _repr_png_(self):
        png = io.BytesIO()
        FigureCanvasAgg(self).print_png(png)
        return png.getvalue()


def _panels(n=1, width=6.4, height=3.2, bottom=0.17):
    """A figure and its axes, in a fixed layout: arranging it anew at each step would be slow."""
    figure = StillFigure(figsize=(width, height), dpi=100)
    axes = figure.subplots(1, n, sharex=True, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.7 / width, right=1 - 0.2 / width, bottom=bottom, top=0.88, wspace=0.08)
    return figure, axes


def _similarity_axis(axis, measure, highest):
    axis.set(xlim=(-1.03, 1.03), ylim=(0, highest), xlabel=label(measure))
    axis.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    axis.locator_params(axis="y", nbins=4)


@styled
def offset_explorer(x, offset=2.0):
    """Cosine and correlation of two features while the slider adds the same offset to both.

    Args:
        x: `[token, 2]`, at least three tokens; the slider goes from -5 to 5 in the units of `x`.
        offset: where the slider starts.

    Raises:
        ValueError: another shape, a feature that is constant, an offset off the slider.

    >>> explorer = offset_explorer(torch.randn(54, 2, generator=torch.Generator().manual_seed(0)))
    >>> explorer.control.value
    2.0
    """
    x = torch.as_tensor(x, dtype=torch.float64).cpu()
    if x.ndim != 2 or x.shape[1] != 2 or x.shape[0] < 3:
        raise ValueError(
            f"expected x [token, 2 features] with 3 or more tokens, got {tuple(x.shape)}: take x[:, [i, j]]"
        )
    if not -5 <= offset <= 5:
        raise ValueError(f"expected an offset from -5 to 5, got {offset}: divide x by its standard deviation first")
    if pearson_correlation(x)[0, 1].isnan():
        raise ValueError("a feature of x is constant, so there is no correlation: choose two features that vary")

    def similarities(offsets):
        shifted = x + torch.as_tensor(offsets, dtype=torch.float64)[:, None, None]  # [offset, sample, feature]
        return cosine_similarity(shifted)[:, 0, 1].numpy(), pearson_correlation(shifted)[:, 0, 1].numpy()

    figure, (axis,) = _panels()
    offsets, marks = np.linspace(-5, 5, 201), []
    names, colours = ("cosine", "correlation"), (COLOURS["Q"], COLOURS["K"])
    for name, values, colour, line in zip(names, similarities(offsets), colours, ("-", "--")):
        axis.plot(offsets, values, color=colour, ls=line, lw=2, label=label(name))
        marks += axis.plot([], [], "o", color=colour, ms=8)
    axis.axhline(0, color="black", lw=0.6)
    axis.set(xlim=(-5, 5), ylim=(-1.05, 1.05), xlabel=label("offset"), ylabel=label("similarity"))
    axis.legend(loc="lower right")

    def draw(value):
        at = [float(values[0]) for values in similarities([value])]
        for mark, height in zip(marks, at):
            mark.set_data([value], [height])
        return f"{short} {value:+.2f} · cos {at[0]:+.2f} · r {at[1]:+.2f}"

    short = label("offset_short")
    slider = FloatSlider(offset, min=-5, max=5, step=0.25, description=short, readout_format="+.2f", **WIDE)
    return Explorer(figure, slider, draw, f"{label('cosine')}, {label('correlation')}")


@styled
def mask_explorer(sizes):
    """The coded mask with the cells of one block lit; buttons choose the block.

    Args:
        sizes: features of Q, K and V.  Of a large mask evenly spaced cells are drawn.

    Raises:
        ValueError: not three whole positive numbers.

    >>> mask_explorer((2, 1, 1)).control.options
    ('QQ', 'KK', 'VV', 'QK', 'QV', 'KV')
    """
    sizes = check_sizes(sizes)
    n_features, names = sum(sizes), tuple(BLOCKS)
    kept = torch.linspace(0, n_features - 1, min(n_features, MOST_CELLS)).round().long()
    codes = matrix_mask(sizes)[kept][:, kept].numpy()  # [cell, cell]
    pale = [tuple(1 - 0.2 * (1 - channel) for channel in to_rgb(COLOURS[block])) for block in names]
    colours = ListedColormap(["white", *pale, *(COLOURS[block] for block in names)])
    index = sum((number + 1) * (codes == BLOCKS[block]) for number, block in enumerate(names))  # 0 for no block
    figure, (axis,) = _panels(width=4.4, height=4.4, bottom=0.13)
    end = n_features - 0.5
    picture = axis.imshow(index, cmap=colours, vmin=-0.5, vmax=12.5, extent=(-0.5, end, end, -0.5), aspect="auto")
    picture.set_interpolation("nearest")
    mark_parts(axis, sizes)
    pairs, code_name, pairs_name = n_block_pairs(sizes), label("code"), label("pairs")

    def draw(block):
        lit = codes == BLOCKS[block]
        picture.set_data(index + len(names) * lit)
        return f"{block} · {code_name} {BLOCKS[block]} · {pairs_name}: {pairs[block]:_}"

    buttons = ToggleButtons(options=names, description=label("block"), style={"button_width": "3.5em"})
    return Explorer(figure, buttons, draw, say("mặt nạ mã số", "coded mask"))


@styled
def small_n_explorer(n_max=54, seed=0):
    """Correlations of independent Gaussian features over n sentences, on their exact density.

    The features are drawn once; the slider decides how many of their sentences are used.

    Args:
        n_max: most sentences, more than 3.
        seed: of the simulation.

    Raises:
        ValueError: `n_max` is not a whole number above 3.

    >>> small_n_explorer().control.min
    3
    """
    if isinstance(n_max, bool) or not isinstance(n_max, (int, np.integer)) or n_max < 4:
        raise ValueError(f"expected a whole number n_max above 3, got {n_max!r}: the slider starts at 3 sentences")
    n_max = int(n_max)
    # K and V get one feature each because a histogram wants three parts; only QQ is looked at
    sizes = (N_FEATURES, 1, 1)
    x = torch.randn(n_max, sum(sizes), generator=torch.Generator().manual_seed(seed))  # [sentence, feature]

    def histogram(n):
        return block_histograms(x[:n], sizes, measures="correlation", bins=50)["correlation"]["QQ"]

    figure, (axis,) = _panels()
    shown = histogram(3)
    s = np.linspace(-0.995, 0.995, 399)  # at n = 3 the density is infinite at the ends
    highest = max(float(densities(shown).max()), float(null_density(0.0, n_max, "correlation")))
    bars = axis.stairs(densities(shown), shown.edges, fill=True, color=COLOURS["Q"], alpha=0.55)
    bars.set_label(say("chiều độc lập (mô phỏng)", "independent features (simulated)"))
    (curve,) = axis.plot(s, s, color="black", lw=1.2, label=label("null"))
    _similarity_axis(axis, "correlation", 1.25 * highest)
    axis.set_ylabel(label("density"))
    axis.legend(loc="upper right")
    sentences, smile = label("sentences"), label("smile_index")

    def draw(n):
        now = histogram(n)
        bars.set_data(densities(now).numpy())
        curve.set_data(s, null_density(s, n, "correlation"))
        return f"n = {n} {sentences} · {smile} = {float(smile_index(now)):+.2f}"

    slider = IntSlider(3, min=3, max=n_max, description=label("n_sentences"), **WIDE)
    return Explorer(figure, slider, draw, f"{label('correlation')}, {label('density')}")


@styled
def centring_explorer(x, sizes, block="QQ"):
    """Histogram of the cosines of one block while the slider takes the mean out: x - a * mean.

    At a = 1 the cosine is the correlation.

    Args:
        x: `[sample, feature]`, one layer, at least three tokens.
        sizes: features of Q, K and V, adding up to those of `x`.
        block: a name in `BLOCKS`.

    Raises:
        ValueError: another shape, sizes that do not add up, an unknown block.

    >>> x = torch.randn(54, 8, generator=torch.Generator().manual_seed(0))
    >>> centring_explorer(x + 3, (4, 2, 2)).control.value
    0.0
    """
    x = torch.as_tensor(x).detach().cpu()
    if x.ndim != 2 or x.shape[0] < 3:
        raise ValueError(
            f"expected x [sample, feature] with 3 or more tokens, got {tuple(x.shape)}: "
            "choose one layer, qkv.joined()[layer]"
        )
    sizes = check_sizes(sizes, x.shape[1])
    if block not in BLOCKS:
        raise ValueError(f"unknown block {block!r}: expected one of {', '.join(BLOCKS)}")
    # of a part that the block does not need one feature is enough
    at = [part if name in block else slice(part.start, part.start + 1) for name, part in part_slices(sizes).items()]
    x = torch.cat([x[:, part] for part in at], dim=1)  # [sample, feature]
    sizes = [size if name in block else 1 for name, size in zip(PARTS, sizes)]
    constant = pearson_correlation(x.T.unsqueeze(-1)).isnan().flatten()  # [feature], each one with itself
    mean = x.double().mean(dim=0)
    deviation = (x.double() - mean).masked_fill(constant, 0)  # without its mean a constant is 0, not rounding noise
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

    @functools.cache
    def histogram(a):
        left = (deviation + (1 - a) * mean).to(dtype)  # [sample, feature]
        return block_histograms(left, sizes, measures="cosine")["cosine"][block]

    figure, (axis,) = _panels()
    steps = [densities(histogram(step / 20)).nan_to_num() for step in range(21)]
    highest, edges = max(float(step.max()) for step in steps), histogram(0.0).edges.numpy()
    s = (edges[1:] + edges[:-1]) / 2
    bars = axis.stairs(steps[0], edges, fill=True, color=COLOURS[block], alpha=0.55, label=block)
    at_the_end = null_density(s, len(x), "correlation")  # the null of a = 1
    axis.plot(s, at_the_end, color="black", lw=1, ls=":", label=f"{label('null')} (a = 1)")
    _similarity_axis(axis, "cosine", 1.25 * max(highest, at_the_end.max()))
    axis.set_ylabel(label("density"))
    axis.legend(loc="upper right")
    smile, sentences = label("smile_index"), label("sentences")

    def draw(a):
        now = histogram(a)
        bars.set_data(densities(now).nan_to_num().numpy())
        return f"{block} · a = {a:.2f} · {smile} = {float(smile_index(now)):+.2f} · n = {len(x)} {sentences}"

    slider = FloatSlider(0, min=0, max=1, step=0.05, description=label("taken_out"), **WIDE)
    return Explorer(figure, slider, draw, f"{label('cosine')}, {label('density')}")


@styled
def layer_explorer(target, control, baseline=None):
    """Histograms of QQ, KK and VV, one layer at a time, with the smile index S; all layers on one scale.

    Args:
        target, control: `BlockHistograms` of one measure with counts `[layer, bins]`.
        baseline: a third one; without it the exact null is drawn.

    Raises:
        ValueError: not `BlockHistograms` with layers, or different measures, layers or bins.

    >>> x = torch.randn(3, 54, 8, generator=torch.Generator().manual_seed(0))
    >>> histograms = block_histograms(x, (4, 2, 2))["cosine"]
    >>> layer_explorer(histograms, histograms).control.max
    2
    """
    blocks = ("QQ", "KK", "VV")
    given = {"target": target, "control": control} | ({} if baseline is None else {"baseline": baseline})
    for name, histograms in given.items():
        if not isinstance(histograms, BlockHistograms):
            came = type(histograms).__name__
            raise ValueError(  # noqa: TRY004
                f'{name}: expected BlockHistograms, got {came}: pass block_histograms(x, sizes)["cosine"]'
            )
        shape, wanted = tuple(histograms["QQ"].counts.shape), tuple(target["QQ"].counts.shape)
        if len(shape) != 2 or (histograms.measure, shape) != (target.measure, wanted):
            raise ValueError(
                f"{name}: got the {histograms.measure}, counts {shape}; target has the {target.measure}, counts {wanted}; "
                "expected one measure and counts [layer, bins]: pass block_histograms of x [layer, sample, feature]"
            )
    height = {  # [layer, bins]
        (name, block): densities(given[name][block]).numpy(force=True) for name in given for block in blocks
    }
    smile = {block: smile_index(target[block]).tolist() for block in blocks}  # [layer]
    # One scale for all layers.  Where most features are constant one bin holds nearly all pairs: it is cut, and says so.
    highest = np.quantile(np.nan_to_num([values.max(-1) for values in height.values()]).max(0), 0.9)
    edges = target.edges.numpy(force=True)
    s = (edges[1:] + edges[:-1]) / 2
    null = null_density(s, target.n_samples, target.measure) if baseline is None else np.zeros(1)
    top = 1.15 * float(max(highest, null.max()))
    looks = {"control": {"color": "black", "lw": 1.1}, "baseline": {"color": BASELINE, "lw": 1.8, "ls": "--"}}
    figure, axes = _panels(3, width=9.6, height=3.4, bottom=0.27)
    lines, notes = {}, {}
    for block, axis in zip(blocks, axes):
        looks["target"] = {"color": COLOURS[block], "alpha": 0.55, "fill": True}
        for name in given:
            values = np.zeros(len(edges) - 1)
            lines[name, block] = axis.stairs(values, edges, label=label(name), **looks[name])
        if baseline is None:
            axis.plot(s, null, color="black", lw=1, ls=":", label=label("null"))
        _similarity_axis(axis, target.measure if block == "KK" else "", top)  # one name under three equal axes
        axis.set_title(block, color=COLOURS[block], fontweight="bold", y=0.9)
        notes[block] = axis.text(0.5, 0.6, "", transform=axis.transAxes, ha="center", fontsize=9)
    axes[0].set_ylabel(label("density"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4)
    layer_name, empty, cut = label("layer"), label("no_pairs"), say("bị cắt, cao đến {:.0f}", "cut off, reaches {:.0f}")
    ending = f"n = {target.n_samples} {label('sentences')} · {label('smile_index')}"

    def draw(layer):
        for (name, block), line in lines.items():
            line.set_data(np.nan_to_num(height[name, block][layer]))
        for block, note in notes.items():
            tallest = height["target", block][layer].max()  # NaN without any pair
            note.set_text(empty if np.isnan(tallest) else cut.format(tallest) if tallest > top else "")
        indices = " · ".join(f"{block} {smile[block][layer]:+.2f}" for block in blocks)
        return f"{layer_name} {layer} · {ending}: {indices}"

    n_layer = len(target["QQ"].counts)
    slider = IntSlider(n_layer // 10, min=0, max=n_layer - 1, description=layer_name, **WIDE)
    return Explorer(figure, slider, draw, f"{label(target.measure)}, {label('density')}")
