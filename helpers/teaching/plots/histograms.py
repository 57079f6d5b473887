"""Histograms of similarities."""

from dataclasses import replace

import numpy as np
import seaborn as sns
import torch

from helpers.baselines import null_density, null_shares
from helpers.masks import BLOCKS, MEASURES
from helpers.statistics import smile_index
from helpers.teaching.labels import label
from helpers.teaching.plots.palette import COLOURS, FILLED, LINES
from helpers.teaching.plots.style import finish, name_panel, panel_grid, plain, similarity_axis, styled


@styled
def plot_blocks(target, *, layers, blocks=("QQ", "KK", "VV"), control=None, baseline=None, null=False, title=None):
    """Histograms of several blocks (columns) at several layers (rows), every panel on the same scale.

    `target`, drawn filled, and `control` and `baseline`, drawn as lines, are `BlockHistograms` with counts
    `[layer, bins]`, of which the rows `layers` are drawn; with `null` also the exact density for independent features
    (`null_density`).
    """
    figure, axes = panel_grid(len(layers), len(blocks), 3.2 * len(blocks), 0.8 + 2.1 * len(layers), target.measure)
    given = {"target": target, "control": control, "baseline": baseline}
    for layer, row in zip(layers, axes, strict=True):
        for block, axis in zip(blocks, row, strict=True):
            counts = {label(name): h and h[block].counts[layer] for name, h in given.items()}
            _draw(axis, block, counts, (target.measure, target.n_samples) if null else None)
        row[0].set_ylabel(f"{label('layer')} {layer}\n{label('density')}")
    for block, axis in zip(blocks, axes[0], strict=True):
        name_panel(axis, block)
    axes[0, 0].set_ylim(bottom=0)
    return finish(figure, axes[-1, -1], 4, title, target.n_samples)


@styled
def plot_conditions(conditions, *, measures=MEASURES, blocks=("QQ", "KK", "VV"), title=None):
    """One layer under several conditions: a row for each of the measures, a column for each of the blocks.

    `conditions` is {name: result of `block_histograms` for one `[sample, F]`}, the first drawn filled, the others as
    lines, on the exact null density for the number of tokens of the first.
    """
    n = next(iter(conditions.values()))[measures[0]].n_samples
    figure, axes = panel_grid(len(measures), len(blocks), 3.2 * len(blocks), 1.2 + 2.2 * len(measures), sharey="row")
    for measure, row in zip(measures, axes, strict=True):
        for block, axis in zip(blocks, row, strict=True):
            axis.tick_params(labelbottom=True)
            counts = {name: result[measure][block].counts for name, result in conditions.items()}
            _draw(axis, block, counts, (measure, n))
            name_panel(axis, block)
            axis.set_xlabel(label(measure))
        row[0].set(ylabel=label("density"), ylim=(0, None))
    return finish(figure, axes[-1, -1], 3, title, n)


def _draw(axis, block, counts, null):
    """One panel of {name: counts `[bins]` of equal bins from -1 to 1, or None}: the first filled, the others as lines.

    `null` is the measure and the number of samples of the null density, or None.
    """
    bins = len(next(iter(counts.values())))
    middles = (2 * np.arange(bins) + 1) / bins - 1
    options = {"x": middles, "bins": bins, "binrange": (-1, 1), "stat": "density", "element": "step", "ax": axis}
    for (name, weights), look in zip(counts.items(), ({"color": COLOURS[block], **FILLED}, *LINES * len(counts))):
        if weights is not None and weights.any():
            sns.histplot(weights=weights.numpy(force=True), label=plain(name), **{**options, "fill": False, **look})
        elif "fill" in look:
            centre = {"ha": "center", "va": "center", "transform": axis.transAxes}
            axis.text(0.5, 0.5, label("no_pairs"), backgroundcolor="white", fontsize=9, **centre)
    if null:
        axis.plot(middles, null_density(middles, null[1], null[0]), color="black", lw=1, ls=":", label=label("null"))
    similarity_axis(axis)


@styled
def plot_one_curve(cosines, correlations, title=None):
    """Smile index against one number of each histogram, with the null at that number as the curve (notebook 06).

    The number is the offset's share of the energy for the cosine, where the null has 1 / share^2 sentences, and the
    effective sample size for the correlation.

    Each argument is a list of (block, number `[layer]`, `BlockHistogram` with counts `[layer, bins]`).
    """
    figure, axes = panel_grid(1, 2, 10, 4, sharex=False)
    share, size = np.linspace(0.14, 0.99, 200), np.geomspace(2.1, 60, 200)
    curves = ("cosine", cosines, share, 1 / share**2), ("correlation", correlations, size, size)
    for axis, (measure, rows, x, n) in zip(axes[0], curves, strict=True):
        names = [name for name, at, _ in rows for _ in at]
        pairs = zip(*((at, smile_index(h)) for _, at, h in rows))
        at, s = (torch.cat(part).numpy(force=True) for part in pairs)
        order = [block for block in BLOCKS if block in names]
        sns.scatterplot(x=at, y=s, hue=names, hue_order=order, palette=COLOURS, s=20, lw=0, ax=axis)
        any_of_them = rows[0][2]  # they have the same bins
        null = torch.stack([null_shares(k, measure, any_of_them.edges) for k in n])  # [point, bin]
        s = smile_index(replace(any_of_them, counts=null)).numpy(force=True)
        axis.plot(x, s, color="black", lw=1.2, label=label("null"))
        axis.axhline(0, color="black", lw=0.5)
        axis.axvline(3**-0.5 if measure == "cosine" else 4, color="0.6", lw=0.8, ls="--")  # the null is uniform
        axis.set_title(label(measure))
    axes[0, 0].set(xlim=(0, 1), ylim=(-1.05, 1.05), xlabel=label("offset_energy"), ylabel=label("smile_index"))
    axes[0, 1].set(xscale="log", xlim=(2, 60), xlabel=label("effective_n"))
    axes[0, 1].set_xticks([2, 3, 4, 5, 10, 20, 50], ["2", "3", "4", "5", "10", "20", "50"])
    axes[0, 1].minorticks_off()
    return finish(figure, axes[0, 0], 7, title)
