"""Figures over layers and heads.

Heat maps in many panels are images: `sns.heatmap` draws the whole figure anew for each of them.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from helpers.masks import BLOCKS
from helpers.teaching.labels import label
from helpers.teaching.plots.style import (
    BASELINE,
    COLOURS,
    densities,
    finish,
    name_panel,
    panel_grid,
    plain,
    styled,
    to_numpy,
)

DENSITY = LogNorm(0.05, 5)
"""The colour scale of every heat map of densities: its middle is 0.5, the density of a uniform distribution."""

IMAGE = {"aspect": "auto", "interpolation": "nearest"}


@styled
def plot_relative_depth(panels, ylabel, *, title=None):
    """Curves of models of different depth on one axis, 0 for the first layer and 1 for the last.

    Args:
        panels: {panel: {name of the model: values [layer]}}.  The first model has the panel's colour, the second
            is black and dashed; dots are layers.
        ylabel: key of the quantity in the labels.
        title: above the figure.
    """
    figure, axes = panel_grid(1, len(panels), max(2.9 * len(panels), 7), 3.4)
    looks = {"lw": 2, "marker": ".", "ms": 5}, {"color": "black", "ls": "--", "marker": "o", "ms": 4}
    _curves(axes, panels, looks, lambda n: np.linspace(0, 1, n))
    for axis in axes[0]:
        axis.axhline(0, color="black", lw=0.6)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_xlabel(label("relative_depth"))
    axes[0, 0].set_ylabel(label(ylabel))
    return finish(figure, axes[0, 0], 2, title)


def _curves(axes, panels, looks, places):
    """The curves of every panel, with a gap at NaN (which `sns.lineplot` would bridge); `places(n)` are their x."""
    for axis, (name, curves) in zip(axes.flat, panels.items()):
        colour = COLOURS.get(name, COLOURS["Q"])
        for (key, values), look in zip(curves.items(), looks):
            axis.plot(places(len(values)), to_numpy(values), **{"color": colour, **look}, label=plain(label(key)))
        name_panel(axis, name)


@styled
def plot_layer_histograms(target, control=None, *, title=None):
    """Heat maps layer x similarity, one per block; the colour is the density, on one scale in all figures.

    Two neighbouring bins are drawn as one.

    Args:
        target: `BlockHistograms` with counts `[layer, bins]`, drawn in the first row.
        control: another of the same shape, drawn below it.
        title: above the figure; the number of sentences is added.
    """
    rows = {"target": target} if control is None else {"target": target, "control": control}
    figure, axes = panel_grid(len(rows), len(BLOCKS), 9.6, 0.9 + 2.2 * len(rows))
    colours = plt.get_cmap("PuOr_r", 12).with_extremes(bad="0.8")  # grey: no density
    empty = False
    for row, (name, histograms) in zip(axes, rows.items(), strict=True):
        for axis, (block, histogram) in zip(row, histograms.items(), strict=True):
            values = densities(histogram)  # [layer, bins]
            if values.shape[-1] % 2 == 0:  # a panel is about as many pixels wide as there are bins
                values = values.unflatten(-1, (-1, 2)).mean(dim=-1)  # [layer, bins / 2]
            values = to_numpy(values)
            empty |= bool(np.isnan(values).any())
            values = np.maximum(values, DENSITY.vmin / 2)  # an empty bin has no logarithm: draw it as the lowest colour
            image = axis.imshow(values, norm=DENSITY, cmap=colours, extent=(-1, 1, len(values) - 0.5, -0.5), **IMAGE)
            if name == "target":
                name_panel(axis, block)
        row[0].set_ylabel(f"{label(name)}\n{label('layer')}")
    axes[0, 0].set_xticks([-1, 0, 1], ["−1", "0", "1"])
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel(label(target.measure), fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("s")
    ticks = {"ticks": [0.05, 0.1, 0.2, 0.5, 1, 2, 5], "format": "{x:g}"}
    figure.colorbar(image, ax=axes, label=label("density"), extend="both", aspect=30, **ticks).minorticks_off()
    if empty:
        figure.legend(handles=[Patch(color="0.8", label=label("no_pairs"))], loc="outside lower right", frameon=False)
    return finish(figure, title=title, n=target.n_samples)


@styled
def plot_depth(panels, ylabel, *, log=False, title=None):
    """Curves over the layers, one panel per part, block or measure, all on the same scale.

    Args:
        panels: {panel: {label of the curve: values [layer]}}; NaN leaves a gap.  The first curve of a
            panel has the panel's colour, the second is black, the third grey and dashed.
        ylabel: key of the quantity in the labels.
        log: logarithmic scale; a linear one shows the line at 0.
        title: above the figure.
    """
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = panel_grid(n_rows, n_columns, max(2.7 * n_columns, 7), 1.3 + 1.6 * n_rows)
    _curves(axes, panels, ({"lw": 2}, {"color": "black"}, {"color": BASELINE, "ls": "--"}), range)
    if log:
        axes[0, 0].set_yscale("log")
        ticks = {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
        axes[0, 0].yaxis.set(**ticks, minor_formatter=NullFormatter())
    else:
        for axis in axes.flat[: len(panels)]:
            axis.axhline(0, color="black", lw=0.6)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[-1]:
        axis.set_xlabel(label("layer"))
    figure.supylabel(label(ylabel), fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel(" ")  # room beside the common label
    return finish(figure, axes.flat[len(panels) - 1], 3, title)


@styled
def plot_head_maps(values, name, *, title=None):
    """Heat maps layer x head, one per block, on one scale from -1 to 1.

    Args:
        values: {block: `[layer, head]`}; the number of heads may differ.
        name: key of the quantity in the labels.
        title: above the figure.
    """
    figure, axes = panel_grid(1, len(values), 2.5 * len(values) + 0.8, 3.2, sharey=False)
    for axis, (block, value) in zip(axes[0], values.items(), strict=True):
        image = axis.imshow(to_numpy(value).T, vmin=-1, vmax=1, cmap="RdBu_r", **IMAGE)  # [head, layer]
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        name_panel(axis, block)
        axis.set_xlabel(label("layer"))
    axes[0, 0].set_ylabel(label("head"))
    figure.colorbar(image, ax=axes, label=label(name))
    return finish(figure, title=title)


@styled
def plot_heads(intervals, pooled, cuts, *, title=None):
    """A value for each head with its interval, beside the value of all heads pooled and of random cuts.

    Args:
        intervals: {block: `Interval` of tensors `[head]`}.
        pooled: {block: number}, drawn as a line.
        cuts: {block: tensor of the values of groups drawn at random}, drawn as a band from the 5th to the
            95th percentile.
        title: above the figure.
    """
    widths = [2 + len(interval.estimate) for interval in intervals.values()]
    figure, axes = panel_grid(1, len(intervals), 3.6 * len(intervals), 3.6, sharex=False, width_ratios=widths)
    for axis, (block, interval) in zip(axes[0], intervals.items(), strict=True):
        estimate, low, high = (to_numpy(part) for part in interval[:3])
        between = np.quantile(to_numpy(cuts[block]), [0.05, 0.95])
        axis.axhspan(*between, color=BASELINE, alpha=0.3, lw=0, label=label("random_cut_band"))
        axis.axhline(float(pooled[block]), color="black", lw=1.2, ls="--", label=label("pooled"))
        head, reach = range(len(estimate)), [estimate - low, high - estimate]
        look = {"fmt": "o", "color": COLOURS[block], "capsize": 3, "label": label("head_interval")}
        axis.errorbar(head, estimate, yerr=reach, **look)
        axis.axhline(0, color="black", lw=0.6)
        axis.set(xlim=(-0.8, len(estimate) - 0.2), xticks=head, xlabel=label("head"))
        name_panel(axis, block)
    axes[0, 0].set_ylabel(label("smile_index"))
    return finish(figure, axes[0, 0], 3, title)
