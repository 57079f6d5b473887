"""Figures of one matrix or one pair."""

import numpy as np
import seaborn as sns
import torch
from matplotlib.colors import ListedColormap

from helpers.masks import BLOCKS, check_sizes, matrix_mask
from helpers.settings import say
from helpers.teaching.labels import label
from helpers.teaching.plots.palette import COLOURS
from helpers.teaching.plots.style import finish, mark_parts, panel_grid, plain, styled, to_numpy

MOST_CELLS = 400  # of a mask along one side; more than that are fewer than two pixels each


@styled
def plot_attention(weights, tokens, titles, title=None):
    """Attention patterns side by side, on one scale from 0 to 1.

    `weights` is a list of `[query token, key token]`, `titles` has one text for each, `tokens` their texts on the axes.
    """
    figure, axes = panel_grid(1, len(weights), 4.4 * len(weights) + 0.6, 4.2)
    tokens = [plain(token, 20) for token in tokens]
    for axis, weight, name in zip(axes[0], weights, titles, strict=True):
        look = {"vmin": 0, "vmax": 1, "cmap": "viridis", "cbar": False, "square": True}
        sns.heatmap(to_numpy(weight), xticklabels=tokens, yticklabels=tokens, **look, ax=axis)
        axis.set(title=plain(name), xlabel=label("key_position"))
        axis.tick_params("x", rotation=90)
        axis.tick_params("y", rotation=0)
    axes[0, 0].set_ylabel(label("query_position"))
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label=label("attention_weight"), shrink=0.8)
    return finish(figure, title=title)


def draw_mask(axis, sizes):
    """The coded mask as an image, one colour per block; of a large one evenly spaced cells.

    Returns the image and the codes it shows, `[cell, cell]`.
    """
    n_features = sum(sizes)
    kept = torch.linspace(0, n_features - 1, min(n_features, MOST_CELLS)).round().long()
    shown = matrix_mask(sizes)[kept][:, kept]  # [cell, cell]
    codes = torch.tensor([0, *sorted(BLOCKS.values())], dtype=torch.uint8)
    index = torch.searchsorted(codes, shown).numpy()  # 0 for no block, then 1..6
    colours = ListedColormap(["white", *(COLOURS[block] for block in sorted(BLOCKS, key=BLOCKS.get))])
    look = {"vmin": -0.5, "vmax": 6.5, "interpolation": "nearest", "extent": (0, n_features, n_features, 0)}
    image = axis.imshow(index, cmap=colours, **look)
    mark_parts(axis, sizes)
    return image, shown.numpy()


@styled
def plot_matrix_mask(sizes):
    """The coded mask as a picture, one colour per block; the lower triangle is left white."""
    figure, ((axis,),) = panel_grid(1, 1, 5.4, 4.6)
    bar = figure.colorbar(draw_mask(axis, check_sizes(sizes))[0], ax=axis, ticks=range(7))
    bar.ax.set_yticklabels(["0", *(f"{BLOCKS[block]}  {block}" for block in sorted(BLOCKS, key=BLOCKS.get))])
    return figure


@styled
def plot_similarity(similarity, sizes, name, title=None):
    """A similarity matrix `[F, F]` as a picture from -1 to 1, cut where Q, K and V meet."""
    figure, ((axis,),) = panel_grid(1, 1, 5.4, 4.6)
    look = {"vmin": -1, "vmax": 1, "cmap": "RdBu_r", "cbar_kws": {"label": label(name)}, "square": True}
    sns.heatmap(to_numpy(similarity), xticklabels=False, yticklabels=False, **look, ax=axis)
    mark_parts(axis, sizes)
    axis.set_title(plain(title) if title else "")
    return figure


@styled
def plot_feature_pair(x, y, title=None):
    """Two features, x and y `[token]`: what cosine sees (from the origin) and what correlation sees (from the mean)."""
    x, y = to_numpy(x), to_numpy(y)
    figure, ((axis,),) = panel_grid(1, 1, 5, 4.4)
    sns.scatterplot(x=x, y=y, color=COLOURS["QQ"], s=30, label=label("sentence"), ax=axis)
    axis.plot(0, 0, "P", color="black", ms=9, label=say("gốc tọa độ", "origin"))
    axis.plot(x.mean(), y.mean(), "X", color=COLOURS["KK"], ms=10, label=label("mean"))
    axis.axhline(0, color="black", lw=0.6)
    axis.axvline(0, color="black", lw=0.6)
    far = 1.1 * np.abs([x, y]).max()
    axis.set(xlim=(-far, far), ylim=(-far, far), aspect="equal", title=plain(title) if title else "")
    axis.set(xlabel=say("chiều thứ nhất", "first feature"), ylabel=say("chiều thứ hai", "second feature"))
    axis.legend(frameon=False)
    return figure
