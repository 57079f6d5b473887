"""Histograms of similarities."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from helpers.baselines import null_density
from helpers.masks import BLOCKS
from helpers.statistics import null_shares, smile_index
from helpers.teaching.labels import label
from helpers.teaching.plots.style import BASELINE, COLOURS, LINES, densities, styled


@styled
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
                    null_density(s, target.n_samples, target.measure),
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
    figure.suptitle(f"{title + ' · ' if title else ''}n = {target.n_samples} {label('sentences')}", fontsize=11)
    return figure


@styled
def plot_conditions(
    conditions, *, measures=("cosine", "correlation"), blocks=("QQ", "KK", "VV"), null=True, title=None
):
    """One layer under several conditions: a row for each measure, a column for each block.

    Args:
        conditions: {name: result of `block_histograms` for one `[sample, F]`}; the first is drawn filled,
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
                density = null_density(s, first[measure].n_samples, measure)
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
        f"{title + ' · ' if title else ''}n = {first[measures[0]].n_samples} {label('sentences')}", fontsize=11
    )
    return figure


@styled
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
