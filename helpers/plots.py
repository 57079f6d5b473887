"""Figures, with labels in the language chosen by `set_language`.

One colour per part and per block, the same in every figure, from the Okabe-Ito palette (safe for
colour-blind readers).  Panels that are compared share their scales.
"""

import functools

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from helpers.baselines import null_density
from helpers.i18n import label, say
from helpers.masks import BLOCKS, matrix_mask, part_slices
from helpers.statistics import null_shares, smile_index

COLOURS = {
    "Q": "#0072B2",
    "K": "#D55E00",
    "V": "#009E73",
    "QQ": "#0072B2",
    "KK": "#D55E00",
    "VV": "#009E73",
    "QK": "#CC79A7",
    "QV": "#56B4E9",
    "KV": "#E69F00",
}
BASELINE = "#999999"
STYLE = {
    **sns.axes_style("ticks"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",  # has every Vietnamese letter
    "figure.dpi": 100,
}


def _styled(draw):
    """Draw in the module's style without touching the reader's own settings."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        # not plt.rc_context: on leaving, it would also switch off the notebook's interactive display
        before = {name: plt.rcParams[name] for name in STYLE}
        plt.rcParams.update(STYLE)
        try:
            return draw(*args, **kwargs)
        finally:
            plt.rcParams.update(before)

    return styled


def densities(histogram):
    """Probability density in each bin: float64 `[..., bins]`; NaN where every pair is undefined."""
    counts = histogram.counts.double()
    width = histogram.edges[1] - histogram.edges[0]
    return counts / (counts.sum(-1, keepdim=True) * width)


@_styled
def plot_blocks(target, *, blocks=("QQ", "KK", "VV"), layers=None, control=None, baseline=None, null=False, title=None):
    """Histograms of several blocks (columns) at several layers (rows), every panel on the same scale.

    Args:
        target: `BlockHistograms` with counts `[layer, bins]`, or `[bins]` for one row; drawn filled.
        blocks: block names, one column each.
        layers: which rows of the counts to draw; None draws all.
        control, baseline: further `BlockHistograms` of the same shape, drawn as lines.
        null: draw the exact density for independent features (`null_density`) as well.
        title: above the figure; the number of sentences is added.

    Returns:
        The matplotlib figure.
    """
    batched = target[blocks[0]].counts.ndim == 2
    if layers is None:
        layers = range(len(target[blocks[0]].counts)) if batched else [None]
    n_row = len(layers)
    figure, axes = plt.subplots(
        n_row,
        len(blocks),
        figsize=(3.2 * len(blocks), 0.8 + 2.1 * n_row),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    edges = target.edges.numpy(force=True)
    for row, layer in enumerate(layers):
        for block, axis in zip(blocks, axes[row]):

            def density(histograms, block=block, layer=layer):
                values = densities(histograms[block]).numpy(force=True)
                return values if layer is None else values[layer]

            if np.isnan(density(target)).any():
                axis.text(0.5, 0.5, label("no_pairs"), transform=axis.transAxes, ha="center", va="center", fontsize=9)
            else:
                axis.stairs(density(target), edges, fill=True, color=COLOURS[block], alpha=0.55, label=label("target"))
            if control is not None:
                axis.stairs(density(control), edges, color="black", lw=1.1, label=label("control"))
            if baseline is not None:
                axis.stairs(density(baseline), edges, color=BASELINE, lw=1.8, ls="--", label=label("baseline"))
            if null:
                s = (edges[1:] + edges[:-1]) / 2
                axis.plot(
                    s,
                    null_density(s, target.n_tokens, target.measure),
                    color="black",
                    lw=1,
                    ls=":",
                    label=label("null"),
                )
            if row == 0:
                axis.set_title(block, color=COLOURS[block], fontweight="bold")
        where = "" if layer is None else f"{label('layer')} {layer}\n"
        axes[row, 0].set_ylabel(f"{where}{label('density')}")
    axes[0, 0].set(xlim=(-1.03, 1.03))  # room for the outer bins
    axes[0, 0].set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    for axis in axes[-1]:
        axis.set_xlabel(label(target.measure))
    handles, names = axes[-1, -1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    figure.suptitle(f"{title + ' · ' if title else ''}n = {target.n_tokens} {label('sentences')}", fontsize=11)
    return figure


LINES = (("black", "-"), (BASELINE, "--"), ("#882255", "-."), ("#44AA99", (0, (5, 1))))


@_styled
def plot_conditions(
    conditions, *, measures=("cosine", "correlation"), blocks=("QQ", "KK", "VV"), null=True, title=None
):
    """One layer under several conditions: a row for each measure, a column for each block.

    Args:
        conditions: {name: result of `block_histograms` for one `[token, F]`}; the first is drawn filled,
            the others as lines.
        measures, blocks: rows and columns.
        null: draw the exact null density for the number of tokens of the first condition.
        title: above the figure; the number of sentences is added.
    """
    first = next(iter(conditions.values()))
    figure, axes = plt.subplots(
        len(measures),
        len(blocks),
        figsize=(3.2 * len(blocks), 1.2 + 2.2 * len(measures)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, measure in enumerate(measures):
        edges = first[measure].edges.numpy(force=True)
        for block, axis in zip(blocks, axes[row]):
            for number, (name, result) in enumerate(conditions.items()):
                density = densities(result[measure][block]).numpy(force=True)
                if number == 0 and np.isnan(density).any():
                    axis.text(0.5, 0.5, label("no_pairs"), transform=axis.transAxes, ha="center", fontsize=9)
                elif number == 0:
                    axis.stairs(density, edges, fill=True, color=COLOURS[block], alpha=0.55, label=name)
                else:
                    colour, line = LINES[(number - 1) % len(LINES)]
                    axis.stairs(density, edges, color=colour, ls=line, lw=1.4, label=name)
            if null:
                s = (edges[1:] + edges[:-1]) / 2
                density = null_density(s, first[measure].n_tokens, measure)
                axis.plot(s, density, color="black", lw=1, ls=":", label=label("null"))
            axis.set_xlabel(label(measure))
            axis.set_title(block, color=COLOURS[block], fontweight="bold")
        axes[row, 0].set_ylabel(label("density"))
    axes[0, 0].set(xlim=(-1.03, 1.03))
    axes[0, 0].set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    for axis in axes.flat:
        axis.tick_params(labelbottom=True)
    handles, names = axes[-1, -1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    figure.suptitle(
        f"{title + ' · ' if title else ''}n = {first[measures[0]].n_tokens} {label('sentences')}", fontsize=11
    )
    return figure


@_styled
def plot_one_curve(cosines, correlations, title=None):
    """Smile index against one number of each histogram, with the null at that number as the curve (notebook 06).

    The number is the offset's share of the energy for the cosine, where the null has 1 / share^2 sentences, and the
    effective sample size for the correlation.

    Args:
        cosines, correlations: lists of (block, number `[layer]`, `BlockHistogram` with counts `[layer, bins]`).
        title: above the figure.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    share, size = np.linspace(0.14, 0.99, 200), np.geomspace(2.1, 60, 200)
    for axis, measure, rows, x, n in (
        (axes[0], "cosine", cosines, share, 1 / share**2),
        (axes[1], "correlation", correlations, size, size),
    ):
        for block in BLOCKS:
            found = [(at, smile_index(h)) for name, at, h in rows if name == block]
            if found:
                at, s = (torch.cat(part).numpy(force=True) for part in zip(*found))
                axis.plot(at, s, ".", ms=5, color=COLOURS[block], label=block)
        edges = rows[0][2].edges.cpu()
        middle = (edges[1:] + edges[:-1]).abs() / 2
        null = torch.stack([null_shares(k, measure, edges) for k in n])  # [point, bin]
        s = null[:, middle > 0.8].sum(-1) - null[:, middle < 0.2].sum(-1)
        axis.plot(x, s, color="black", lw=1.2, label=label("null"))
        axis.axhline(0, color="black", lw=0.5)
        axis.axvline(3**-0.5 if measure == "cosine" else 4, color=BASELINE, lw=0.8, ls="--")  # the null is uniform
        axis.set_title(label(measure))
    axes[0].set(xlim=(0, 1), ylim=(-1.05, 1.05))
    axes[0].set_xlabel(label("offset_energy"))
    axes[1].set(xscale="log", xlim=(2, 60))
    axes[1].set_xticks([2, 3, 4, 5, 10, 20, 50], ["2", "3", "4", "5", "10", "20", "50"])
    axes[1].minorticks_off()
    axes[1].set_xlabel(label("effective_n"))
    axes[0].set_ylabel(label("smile_index"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, markerscale=2)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@_styled
def plot_attention(weights, tokens, titles, title=None):
    """Attention patterns side by side, on one scale from 0 to 1.

    Args:
        weights: list of `[query token, key token]`.
        tokens: their texts, for the axes.
        titles: one per pattern.
    """
    figure, axes = plt.subplots(
        1, len(weights), figsize=(4.4 * len(weights) + 0.6, 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, weight, name in zip(axes[0], weights, titles):
        image = axis.imshow(torch.as_tensor(weight).numpy(force=True), cmap="viridis", vmin=0, vmax=1)
        axis.set_xticks(range(len(tokens)), tokens, rotation=90)
        axis.set_yticks(range(len(tokens)), tokens)
        axis.set_xlabel(label("key_position"))
        axis.set_title(name)
    axes[0, 0].set_ylabel(label("query_position"))
    figure.colorbar(image, ax=axes, label=label("attention_weight"), shrink=0.8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@_styled
def plot_matrix_mask(sizes):
    """The coded mask as a picture, one colour per block; the lower triangle is left white."""
    order = sorted(BLOCKS, key=BLOCKS.get)
    codes = torch.tensor([0] + [BLOCKS[block] for block in order], dtype=torch.uint8)
    index = torch.searchsorted(codes, matrix_mask(sizes))  # 0 for no block, then 1..6
    colours = ListedColormap(["white"] + [COLOURS[block] for block in order])
    figure, axis = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    image = axis.imshow(index.numpy(), cmap=colours, vmin=-0.5, vmax=6.5, interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, ticks=range(7))
    bar.ax.set_yticklabels(["0"] + [f"{BLOCKS[block]}  {block}" for block in order])
    _mark_parts(axis, sizes)
    return figure


@_styled
def plot_similarity(similarity, sizes, name, title=None):
    """A similarity matrix `[F, F]` as a picture from -1 to 1, cut where Q, K and V meet."""
    figure, axis = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    image = axis.imshow(
        torch.as_tensor(similarity).numpy(force=True), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    figure.colorbar(image, ax=axis, label=label(name))
    _mark_parts(axis, sizes)
    if title:
        axis.set_title(title, fontsize=10)
    return figure


def _mark_parts(axis, sizes):
    at = part_slices(sizes)
    middles = [(part.start + part.stop - 1) / 2 for part in at.values()]
    for part in list(at.values())[1:]:
        axis.axhline(part.start - 0.5, color="black", lw=0.8)
        axis.axvline(part.start - 0.5, color="black", lw=0.8)
    axis.set_xticks(middles, at)
    axis.set_yticks(middles, at)
    axis.tick_params(length=0)
    axis.set_xlabel(label("feature"))
    axis.set_ylabel(label("feature"))
    axis.spines[["top", "right"]].set_visible(True)


@_styled
def plot_feature_pair(x, y, title=None):
    """Two features over the tokens: what cosine sees (from the origin) and what correlation sees (from the mean).

    Args:
        x, y: `[token]`, values of the two features.
    """
    x, y = (torch.as_tensor(values).numpy(force=True) for values in (x, y))
    figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
    axis.plot(x, y, "o", color=COLOURS["QQ"], ms=5, label=label("sentence"))
    axis.plot(0, 0, "P", color="black", ms=9, label=say("gốc tọa độ", "origin"))
    axis.plot(x.mean(), y.mean(), "X", color=COLOURS["KK"], ms=10, label=label("mean"))
    axis.axhline(0, color="black", lw=0.6)
    axis.axvline(0, color="black", lw=0.6)
    far = 1.1 * max(np.abs(x).max(), np.abs(y).max())
    axis.set(xlim=(-far, far), ylim=(-far, far), aspect="equal")
    axis.set_xlabel(say("chiều thứ nhất", "first feature"))
    axis.set_ylabel(say("chiều thứ hai", "second feature"))
    axis.legend()
    if title:
        axis.set_title(title, fontsize=10)
    return figure


@_styled
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


# ---- across layers and heads ---------------------------------------------------------------------

DENSITY = LogNorm(0.05, 5)
"""Colour scale of every heat map of densities: its middle is 0.5, the density of a uniform distribution."""


@_styled
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
    figure.suptitle(f"{title + ' · ' if title else ''}n = {target.n_tokens} {label('sentences')}", fontsize=11)
    return figure


@_styled
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


@_styled
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


@_styled
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
