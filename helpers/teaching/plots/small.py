"""Figures of one matrix or one pair."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap

from helpers.masks import BLOCKS, matrix_mask
from helpers.settings import say
from helpers.teaching.labels import label
from helpers.teaching.plots.style import COLOURS, mark_parts, styled


@styled
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


@styled
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
    mark_parts(axis, sizes)
    return figure


@styled
def plot_similarity(similarity, sizes, name, title=None):
    """A similarity matrix `[F, F]` as a picture from -1 to 1, cut where Q, K and V meet."""
    figure, axis = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    image = axis.imshow(
        torch.as_tensor(similarity).numpy(force=True), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    figure.colorbar(image, ax=axis, label=label(name))
    mark_parts(axis, sizes)
    if title:
        axis.set_title(title, fontsize=10)
    return figure


@styled
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
