"""Figures of notebook 09: effects of edits, with intervals over sentences and the random control beside them."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from scipy import stats

from helpers.i18n import label
from helpers.plots import COLOURS, _styled

FLOOR = 1e-3  # nats per token: below it an effect is drawn at the edge of a logarithmic axis
_RANDOM = {"color": "0.35", "marker": "D", "mfc": "white", "ms": 5, "lw": 1, "ls": "none", "capsize": 2}
_EDIT = {"marker": "o", "ms": 6, "lw": 1.6, "ls": "none", "capsize": 3}


def mean_and_reach(values, level=0.95):
    """Mean over sentences and half the width of its confidence interval (Student's t), two floats.

    Args:
        values: `[sentence]`.
    """
    values = np.asarray(values, dtype=np.float64)
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), reach


@_styled
def plot_effects(effects, control, *, title=None):
    """KL divergence of every edit (rows), one panel per part, on one logarithmic scale.

    Args:
        effects: {part: {key of the edit: KL `[sentence]`}}; a smaller effect than `FLOOR` is drawn as an
            arrow at the left edge.
        control: {part: {key of the edit: list of KL `[sentence]`, one for each random draw}}, drawn in
            grey in the row of that edit.
        title: above the figure.
    """
    rows = list(dict.fromkeys(name for edits in effects.values() for name in edits))
    figure, axes = _row_of_panels(len(effects), figsize=(9.6, 1.5 + 0.42 * len(rows)), sharex=True)
    for axis, (part, edits) in zip(axes, effects.items()):
        for name, values in edits.items():
            for draw, random in enumerate(control.get(part, {}).get(name, ())):
                _point(axis, random, rows.index(name) + 0.2 + 0.12 * draw, _RANDOM)
            _point(axis, values, rows.index(name), {**_EDIT, "color": COLOURS[part]})
        for row in range(len(rows)):
            axis.axhline(row + 0.62, color="0.9", lw=0.8)
        axis.set_title(part, color=COLOURS[part], fontweight="bold")
        axis.set_xlabel(label("kl"))
    axes[0].set(xscale="log", xlim=(FLOOR * 0.7, 40), ylim=(len(rows) - 0.3, -0.5))
    axes[0].set_yticks(range(len(rows)), [label(name) for name in rows])
    _plain_numbers(axes[0].xaxis)
    _legend(figure, {label("edit_interval"): {**_EDIT, "color": "black"}, label("random_draw"): _RANDOM})
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _point(axis, values, y, style):
    mean, reach = mean_and_reach(values)
    if mean < FLOOR:
        axis.plot(FLOOR, y, marker="<", color=style["color"], ms=8, ls="none")
    else:
        axis.errorbar(mean, y, xerr=[[min(reach, mean - FLOOR / 2)], [reach]], **style)


@_styled
def plot_scaling(scales, effects, control, *, title=None):
    """KL divergence against the factor by which the offset is multiplied, one panel per part.

    Args:
        scales: the factors; 0 takes the offset away, 1 changes nothing.
        effects: {part: list of KL `[sentence]`, one for each factor}.
        control: {part: list of KL `[sentence]`, one for each random draw}: a shift as long as that of the
            factors 0 and 2, drawn as lines across.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(effects), figsize=(9.6, 3.2))
    for axis, (part, values) in zip(axes, effects.items()):
        for random in control[part]:
            axis.axhline(mean_and_reach(random)[0], color="0.35", lw=1, ls=":")
        means, reaches = np.array([mean_and_reach(v) for v in values]).T
        axis.errorbar(scales, means, yerr=reaches, color=COLOURS[part], **{**_EDIT, "ls": "-"})
        axis.set_title(part, color=COLOURS[part], fontweight="bold")
        axis.set_xlabel(label("offset_factor"))
        axis.axhline(0, color="black", lw=0.6)
    axes[0].set_ylabel(label("kl"))
    _legend(
        figure,
        {
            label("edit_interval"): {**_EDIT, "color": "black"},
            label("random_draw_mean"): {"color": "0.35", "ls": ":", "lw": 1},
        },
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@_styled
def plot_effect_depth(layers, effects, control, *, title=None):
    """KL divergence of an edit at one layer, against the layer, with the random control.

    Args:
        layers: layer numbers.
        effects, control: {part: list of KL `[sentence]`, one for each layer}.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(effects), figsize=(9.6, 3.4), sharex=True)
    for axis, part in zip(axes, effects):
        for shift, values, style in (
            (0.5, control[part], {**_RANDOM, "ls": ":"}),
            (0, effects[part], {**_EDIT, "color": COLOURS[part], "ls": "-"}),
        ):
            means, reaches = np.array([mean_and_reach(v) for v in values]).T
            means, low = _above_zero(means, reaches)
            axis.errorbar(np.asarray(layers) + shift, means, yerr=[low, reaches], **style)
        axis.set_title(part, color=COLOURS[part], fontweight="bold")
        axis.set_xlabel(label("layer"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_yscale("log")
    axes[0].set_ylabel(label("kl"))
    _plain_numbers(axes[0].yaxis)
    _legend(figure, {label("edit_interval"): {**_EDIT, "color": "black"}, label("random_draw"): _RANDOM})
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@_styled
def plot_smile_and_effect(points, *, title=None):
    """Causal effect against smile index, one panel per part, with the random control in grey.

    Args:
        points: {part: {key of the kind of point: (S `[point]`, effects, control)}}, the last two lists of
            KL `[sentence]`, one for each point.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(points), figsize=(9.6, 3.8), sharex=True)
    markers = ("o", "^", "s", "x")
    for axis, (part, kinds) in zip(axes, points.items()):
        for (s, effects, control), marker in zip(kinds.values(), markers):
            for values, colour in ((control, "0.7"), (effects, COLOURS[part])):
                means, reaches = np.array([mean_and_reach(v) for v in values]).T
                means, low = _above_zero(means, reaches)
                axis.errorbar(s, means, yerr=[low, reaches], fmt=marker, ms=5, color=colour, lw=0.8, ls="none")
        axis.axvline(0, color="black", lw=0.6)
        axis.set_title(part, color=COLOURS[part], fontweight="bold")
        axis.set_xlabel(label("smile_index"))
    axes[0].set(yscale="log", xlim=(-1.05, 1.05))
    axes[0].set_ylabel(label("kl"))
    _plain_numbers(axes[0].yaxis)
    styles = {label(name): {"color": "black", "marker": m, "ls": "none"} for name, m in zip(kinds, markers)}
    _legend(figure, {**styles, label("random_draw"): {"color": "0.7", "marker": "o", "ls": "none"}})
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@_styled
def plot_distance(curves, control, *, title=None):
    """Score that an offset of the keys adds, against the distance back to the key; one panel per layer.

    Args:
        curves: {layer: `[sentence, head, distance]`}; each head is a line with its interval, drawn around
            its own mean, since the softmax drops a constant.
        control: the same for a random vector, drawn in grey.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(curves), figsize=(9.6, 3.5), sharex=True)
    for axis, layer in zip(axes, curves):
        for values, colour in ((control[layer], "0.6"), (curves[layer], COLOURS["K"])):
            for head in np.asarray(values, dtype=np.float64).transpose(1, 0, 2):  # [sentence, distance]
                _band(axis, head - head.mean(axis=1, keepdims=True), color=colour, lw=0.9)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_title(f"{label('layer')} {layer}")
        axis.set_xlabel(label("distance"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(label("score_change"))
    _legend(figure, {label("each_head"): {"color": COLOURS["K"]}, label("random_draw"): {"color": "0.6"}})
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@_styled
def plot_layer_curves(panels, ylabel, *, colour, layers=None, title=None):
    """Curves over the layers with their intervals over sentences, panels on one scale.

    Args:
        panels: {key of the panel: {key of the curve: `[sentence, layer]`}}, three curves at most.
        ylabel: key of the quantity in the labels.
        layers: their numbers; None counts from 0.
        colour: of the first curve; the second is black, the third grey and dashed.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(panels), figsize=(8.4, 3.4), sharex=True)
    styles = ({"color": colour, "lw": 2}, {"color": "black"}, {"color": "0.45", "ls": "--"})
    for axis, (panel, curves) in zip(axes, panels.items()):
        for values, style in zip(curves.values(), styles):
            _band(axis, np.asarray(values, dtype=np.float64), x=layers, **style)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_title(label(panel))
        axis.set_xlabel(label("layer"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(label(ylabel))
    _legend(figure, {label(name): style for name, style in zip(curves, styles)})
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _band(axis, values, x=None, **style):
    """Mean of `[sentence, x]` as a line, its interval as a band."""
    x = range(values.shape[1]) if x is None else x
    mean, reach = np.array([mean_and_reach(column) for column in values.T]).T
    axis.plot(x, mean, **style)
    axis.fill_between(x, mean - reach, mean + reach, color=style["color"], alpha=0.2, lw=0)


def _row_of_panels(number, **options):
    figure, axes = plt.subplots(1, number, squeeze=False, sharey=True, layout="constrained", **options)
    return figure, axes[0]


def _above_zero(means, reaches):
    """Means, and how far bars reach down from them, kept above 0 for a logarithmic axis."""
    means = np.maximum(means, FLOOR / 10)
    return means, np.minimum(reaches, 0.9 * means)


def _plain_numbers(axis):
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure, styles):
    shown = [Line2D([], [], **{k: v for k, v in style.items() if k != "capsize"}) for style in styles.values()]
    figure.legend(shown, list(styles), loc="outside lower center", ncols=len(styles))
