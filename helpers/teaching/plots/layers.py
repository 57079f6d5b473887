"""Figures over layers and heads."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from helpers.masks import BLOCKS
from helpers.teaching.labels import label
from helpers.teaching.plots.style import BASELINE, COLOURS, DENSITY, densities, styled


@styled
def plot_relative_depth(panels, ylabel, *, title=None):
    """Curves of models of different depth on one axis, 0 for the first layer and 1 for the last.

    Args:
        panels: {panel: {name of the model: values [layer]}}.  The first model has the panel's colour, the second
            is black and dashed; dots are layers.
        ylabel: key of the quantity in the labels.
        title: above the figure.
    """
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(max(2.9 * len(panels), 7), 3.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (panel, curves) in zip(axes[0], panels.items()):
        colour = COLOURS.get(panel, COLOURS["Q"])
        styles = (
            {"color": colour, "lw": 2, "marker": ".", "ms": 5},
            {"color": "black", "ls": "--", "marker": "o", "ms": 4},
        )
        for (name, values), style in zip(curves.items(), styles):
            values = torch.as_tensor(values).numpy(force=True)
            axis.plot(np.linspace(0, 1, len(values)), values, **style, label=name)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_title(panel, color=colour, fontweight="bold")
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_xlabel(label("relative_depth"))
    axes[0, 0].set_ylabel(label(ylabel))
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


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
    figure, axes = plt.subplots(
        len(rows),
        len(BLOCKS),
        figsize=(9.6, 0.9 + 2.2 * len(rows)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    colours = plt.get_cmap("PuOr_r", 12).with_extremes(bad="0.8")  # grey: no density
    empty = False
    for panels, (name, histograms) in zip(axes, rows.items()):
        for axis, (block, histogram) in zip(panels, histograms.items()):
            values = densities(histogram)  # [layer, bins]
            if values.shape[-1] % 2 == 0:  # a panel is about as many pixels wide as there are bins
                values = values.unflatten(-1, (-1, 2)).mean(dim=-1)  # [layer, bins / 2]
            values = values.numpy(force=True)
            empty |= bool(np.isnan(values).any())
            image = axis.imshow(
                np.maximum(values, DENSITY.vmin / 2),  # an empty bin has no logarithm: draw it as the lowest colour
                norm=DENSITY,
                cmap=colours,
                extent=(-1, 1, len(values) - 0.5, -0.5),
                aspect="auto",
                interpolation="nearest",
            )
            if name == "target":
                axis.set_title(block, color=COLOURS[block], fontweight="bold")
        panels[0].set_ylabel(f"{label(name)}\n{label('layer')}")
    axes[0, 0].set_xticks([-1, 0, 1], ["−1", "0", "1"])
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel(label(target.measure), fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("s")
    bar = figure.colorbar(image, ax=axes, label=label("density"), extend="both", aspect=30)
    ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    if empty:
        figure.legend(handles=[Patch(color="0.8", label=label("no_pairs"))], loc="outside lower right")
    figure.suptitle(f"{title + ' · ' if title else ''}n = {target.n_samples} {label('sentences')}", fontsize=11)
    return figure


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
    n_column = min(3, len(panels))
    n_row = -(-len(panels) // n_column)
    figure, axes = plt.subplots(
        n_row,
        n_column,
        figsize=(max(2.7 * n_column, 7), 1.3 + 1.6 * n_row),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (panel, curves) in zip(axes.flat, panels.items()):
        colour = COLOURS.get(panel, COLOURS["Q"])
        for (name, values), style in zip(
            curves.items(),
            (
                {"color": colour, "lw": 2},
                {"color": "black"},
                {"color": BASELINE, "ls": "--"},
            ),
        ):
            values = torch.as_tensor(values).numpy(force=True)
            axis.plot(values, **style, label=label(name))
        if not log:
            axis.axhline(0, color="black", lw=0.6)
        axis.set_title(label(panel), color=colour, fontweight="bold")
    if log:
        axes[0, 0].set_yscale("log")
        axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[-1]:
        axis.set_xlabel(label("layer"))
    figure.supylabel(label(ylabel), fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel(" ")  # room beside the common label
    handles, names = axes.flat[len(panels) - 1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@styled
def plot_head_maps(values, name, *, title=None):
    """Heat maps layer x head, one per block, on one scale from -1 to 1.

    Args:
        values: {block: `[layer, head]`}; the number of heads may differ.
        name: key of the quantity in the labels.
        title: above the figure.
    """
    figure, axes = plt.subplots(
        1, len(values), figsize=(2.5 * len(values) + 0.8, 3.2), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (block, value) in zip(axes[0], values.items()):
        image = axis.imshow(
            torch.as_tensor(value).numpy(force=True).T,  # [head, layer]
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_title(block, color=COLOURS[block], fontweight="bold")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlabel(label("layer"))
    axes[0, 0].set_ylabel(label("head"))
    figure.colorbar(image, ax=axes, label=label(name))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


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
    figure, axes = plt.subplots(
        1,
        len(intervals),
        figsize=(3.6 * len(intervals), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
        width_ratios=[2 + len(interval.estimate) for interval in intervals.values()],
    )
    for axis, (block, interval) in zip(axes[0], intervals.items()):
        estimate, low, high = (part.numpy(force=True) for part in interval[:3])
        between = np.quantile(torch.as_tensor(cuts[block]).numpy(force=True), [0.05, 0.95])
        axis.axhspan(*between, color=BASELINE, alpha=0.3, lw=0, label=label("random_cut_band"))
        axis.axhline(float(pooled[block]), color="black", lw=1.2, ls="--", label=label("pooled"))
        axis.errorbar(
            range(len(estimate)),
            estimate,
            yerr=[estimate - low, high - estimate],
            fmt="o",
            color=COLOURS[block],
            capsize=3,
            label=label("head_interval"),
        )
        axis.axhline(0, color="black", lw=0.6)
        axis.set_xlim(-0.8, len(estimate) - 0.2)
        axis.set_xticks(range(len(estimate)))
        axis.set_xlabel(label("head"))
        axis.set_title(block, color=COLOURS[block], fontweight="bold")
    axes[0, 0].set_ylabel(label("smile_index"))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
