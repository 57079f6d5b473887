"""Figures over layers and heads.  Heat maps are images: `sns.heatmap` would draw the whole figure anew for each."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from helpers.masks import BLOCKS
from helpers.teaching.labels import label
from helpers.teaching.plots.palette import BASELINE, COLOURS
from helpers.teaching.plots.style import densities, finish, name_panel, panel_grid, plain, styled, to_numpy

DENSITY = LogNorm(0.05, 5)
"""The colour scale of every heat map of densities: its middle is 0.5, the density of a uniform distribution."""

IMAGE = {"aspect": "auto", "interpolation": "nearest"}


@styled
def plot_relative_depth(panels, ylabel, *, title=None):
    """Curves of models of different depth on one axis, 0 for the first layer and 1 for the last; dots are layers.

    `panels` is {panel: {name of the model: values [layer]}}, the first in the panel's colour, the second black and
    dashed; `ylabel` is the key of the quantity in the labels.
    """
    figure, axes = panel_grid(1, len(panels), max(2.9 * len(panels), 7), 3.4, "relative_depth", ylabel)
    looks = {"lw": 2, "marker": ".", "ms": 5}, {"color": "black", "ls": "--", "marker": "o", "ms": 4}
    _curves(axes, panels, looks, lambda n: np.linspace(0, 1, n))
    for axis in axes[0]:
        axis.axhline(0, color="black", lw=0.6)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    return finish(figure, axes[0, 0], 2, title)


def _curves(axes, panels, looks, places):
    """The curves of every panel, with a gap at NaN (which `sns.lineplot` would bridge); `places(n)` are their x."""
    for axis, (name, curves) in zip(axes.flat, panels.items()):
        colour = COLOURS.get(name, COLOURS["Q"])
        for (key, values), look in zip(curves.items(), looks):
            axis.plot(places(len(values)), to_numpy(values), **{"color": colour, **look}, label=plain(label(key)))
        name_panel(axis, name)


@styled
def plot_layer_histograms(target, control, *, title=None):
    """Heat maps layer x similarity, one per block; the colour is the density, on one scale in all figures.

    `target` and below it `control` are `BlockHistograms` with counts `[layer, bins]` of an even number of bins, of which
    two neighbours are drawn as one.
    """
    figure, axes = panel_grid(2, len(BLOCKS), 9.6, 5.3, "s")
    colours = plt.get_cmap("PuOr_r", 12).with_extremes(bad="0.8")  # grey: no density
    empty = False
    for row, name, histograms in zip(axes, ("target", "control"), (target, control), strict=True):
        for axis, (block, histogram) in zip(row, histograms.items(), strict=True):
            # a panel is about as many pixels wide as there are bins
            values = to_numpy(densities(histogram).unflatten(-1, (-1, 2)).mean(dim=-1))  # [layer, bins / 2]
            empty |= bool(np.isnan(values).any())
            values = np.maximum(values, DENSITY.vmin / 2)  # an empty bin has no logarithm: draw it as the lowest colour
            image = axis.imshow(values, norm=DENSITY, cmap=colours, extent=(-1, 1, len(values) - 0.5, -0.5), **IMAGE)
            if name == "target":
                name_panel(axis, block)
        row[0].set_ylabel(f"{label(name)}\n{label('layer')}")
    axes[0, 0].set_xticks([-1, 0, 1], ["−1", "0", "1"])
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel(label(target.measure), fontsize=10)
    ticks = {"ticks": [0.05, 0.1, 0.2, 0.5, 1, 2, 5], "format": "{x:g}"}
    figure.colorbar(image, ax=axes, label=label("density"), extend="both", aspect=30, **ticks).minorticks_off()
    if empty:
        figure.legend(handles=[Patch(color="0.8", label=label("no_pairs"))], loc="outside lower right", frameon=False)
    return finish(figure, title=title, n=target.n_samples)


@styled
def plot_depth(panels, ylabel, *, log=False, title=None):
    """Curves over the layers, one panel per part, block or measure, all on the same scale.

    `panels` is {panel: {label of the curve: values [layer]}}, the first curve in the panel's colour, the second black, the
    third grey and dashed; NaN leaves a gap.  `ylabel` is the key of the quantity in the labels; a linear scale, unlike
    the logarithmic one of `log`, shows the line at 0.
    """
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = panel_grid(n_rows, n_columns, max(2.7 * n_columns, 7), 1.3 + 1.6 * n_rows, "layer", " ")
    _curves(axes, panels, ({"lw": 2}, {"color": "black"}, {"color": BASELINE, "ls": "--"}), range)
    if log:
        axes[0, 0].set_yscale("log")
        ticks = {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
        axes[0, 0].yaxis.set(**ticks, minor_formatter=NullFormatter())
    else:
        for axis in axes.flat[: len(panels)]:
            axis.axhline(0, color="black", lw=0.6)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel(label(ylabel), fontsize=10)  # beside it, panels have room for a label
    return finish(figure, axes.flat[len(panels) - 1], 3, title)


@styled
def plot_head_maps(values, name, *, title=None):
    """Heat maps layer x head, one per block, on one scale from -1 to 1.

    `values` is {block: `[layer, head]`}, whose numbers of heads may differ; `name` is a key of the labels.
    """
    figure, axes = panel_grid(1, len(values), 2.5 * len(values) + 0.8, 3.2, "layer", "head", sharey=False)
    for axis, (block, value) in zip(axes[0], values.items(), strict=True):
        image = axis.imshow(to_numpy(value).T, vmin=-1, vmax=1, cmap="RdBu_r", **IMAGE)  # [head, layer]
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        name_panel(axis, block)
    figure.colorbar(image, ax=axes, label=label(name))
    return finish(figure, title=title)


@styled
def plot_heads(intervals, pooled, cuts, *, title=None):
    """A value for each head with its interval, beside the value of all heads pooled and of random cuts.

    Of each block: `intervals` an `Interval` of tensors `[head]`, `pooled` a number, drawn as a line, `cuts` a tensor of
    the values of groups drawn at random, drawn as a band from the 5th to the 95th percentile.
    """
    widths = [2 + len(interval.estimate) for interval in intervals.values()]
    shape = {"sharex": False, "width_ratios": widths}
    figure, axes = panel_grid(1, len(intervals), 3.6 * len(intervals), 3.6, "head", "smile_index", **shape)
    for axis, (block, interval) in zip(axes[0], intervals.items(), strict=True):
        estimate, low, high = (to_numpy(part) for part in interval[:3])
        between = np.quantile(to_numpy(cuts[block]), [0.05, 0.95])
        axis.axhspan(*between, color=BASELINE, alpha=0.3, lw=0, label=label("random_cut_band"))
        axis.axhline(float(pooled[block]), color="black", lw=1.2, ls="--", label=label("pooled"))
        head, reach = range(len(estimate)), [estimate - low, high - estimate]
        look = {"fmt": "o", "color": COLOURS[block], "capsize": 3, "label": label("head_interval")}
        axis.errorbar(head, estimate, yerr=reach, **look)
        axis.axhline(0, color="black", lw=0.6)
        axis.set(xlim=(-0.8, len(estimate) - 0.2), xticks=head)
        name_panel(axis, block)
    return finish(figure, axes[0, 0], 3, title)
