"""Figures, with labels in the language chosen by `set_language`.

One colour per part and per block, the same in every figure, from the Okabe-Ito palette (safe for
colour-blind readers).  Panels that are compared share their scales.
"""

import functools

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.colors import ListedColormap

from helpers.baselines import null_density
from helpers.i18n import label, say
from helpers.masks import BLOCKS, matrix_mask, part_slices

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
def plot_against_offset(offsets, curves, at=None):
    """Similarity of one pair of features while the same offset is added to both.

    Args:
        offsets: 1-D.
        curves: {"cosine": values, "correlation": values}, each of the length of `offsets`.
        at: an offset to mark, or None.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for (name, values), colour, line in zip(curves.items(), (COLOURS["Q"], COLOURS["K"]), ("-", "--")):
        axis.plot(offsets, values, color=colour, ls=line, lw=2, label=label(name))
        if at is not None:
            axis.plot(at, np.interp(at, offsets, values), "o", color=colour, ms=8)
    axis.axhline(0, color="black", lw=0.6)
    axis.set(ylim=(-1.05, 1.05), xlim=(min(offsets), max(offsets)))
    axis.set_xlabel(label("offset"))
    axis.set_ylabel(label("similarity"))
    axis.legend(loc="lower right")
    return figure
