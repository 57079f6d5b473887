"""Figures of notebooks 09 and 10: effects of edits, with intervals over sentences and the controls beside them."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import MaxNLocator
from scipy import stats

from helpers.teaching.labels import label
from helpers.teaching.plots.style import BASELINE, COLOURS, styled


def mean_and_reach(values, level=0.95):
    """Mean over sentences (or words) and half the width of its confidence interval (Student's t), two floats.

    Args:
        values: `[sentence]`.
    """
    values = np.asarray(values, dtype=np.float64)
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), reach


def decide(low, high, threshold):
    """Whether a figure with the interval from low to high exceeds the threshold; None if the interval reaches over it.

    >>> decide(0.6, 0.8, 0.5), decide(0.1, 0.4, 0.5), decide(0.4, 0.6, 0.5)
    (True, False, None)
    """
    return None if low <= threshold <= high else low > threshold


def _interval(values):
    mean, reach = mean_and_reach(values)
    return mean - reach, mean + reach


@styled
def plot_swap(effects, *, controls=(), title=None):
    """KL divergence from the run with the other word, word by word, for every edit.

    Args:
        effects: {word: {key of the edit: KL `[sentence]`}}; bars are 95% intervals over the sentences.
        controls: keys of the edits that are controls, two at most, drawn in grey.
        title: above the figure.
    """
    rows = [(word, label(key), float(kl)) for word, edits in effects.items() for key in edits for kl in edits[key]]
    table = dict(zip(("word", "edit", "kl"), zip(*rows)))
    edits = list(next(iter(effects.values())))
    colours = dict(zip((key for key in edits if key not in controls), ("black", *COLOURS.values())))
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    sns.pointplot(
        table,
        x="word",
        y="kl",
        hue="edit",
        errorbar=_interval,
        dodge=0.55,
        linestyles="none",
        capsize=0.06,
        err_kws={"linewidth": 1.3},
        palette=[colours.get(key, "0.55") for key in edits],
        markers=["Ds"[controls.index(key)] if key in controls else "o" for key in edits],
        ax=axis,
    )
    axis.axhline(0, color="black", lw=0.6)
    axis.set(xlabel="", ylabel=label("kl"))
    _legend_below(figure, axis, ncols=3)
    _title(figure, title)
    return figure


@styled
def plot_doses(effects, dose, draws, strict, anchor, *, title=None):
    """KL divergence against the dose of the common mean that is taken away, one panel per part.

    Args:
        effects: {part: {dose: KL `[sentence]`}}; dose 1 takes all of it away.
        dose: of the controls.
        draws, strict: {part: list of KL `[sentence]`}, random vectors of equal length at that dose.
        anchor: KL of the predictor that has not read the text.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(effects), figsize=(9.6, 3.6))
    for axis, (part, by_dose) in zip(axes, effects.items(), strict=True):
        means, reaches = np.array([(0, 0), *map(mean_and_reach, by_dose.values())]).T
        line = {"color": COLOURS[part], "marker": "o", "capsize": 3, "label": label("edit_interval")}
        axis.errorbar([0, *by_dose], means, yerr=reaches, **line)
        for controls, marker, name in ((draws, "D", "random_draw"), (strict, "s", "stricter_draw")):
            kls = controls[part]
            axis.plot(
                [dose] * len(kls), [float(kl.mean()) for kl in kls], marker, mfc="none", color="0.3", label=label(name)
            )
        axis.axhline(anchor, color=BASELINE, ls="--", lw=1.4, label=label("context_free"))
        axis.axhline(0, color="black", lw=0.6)
        axis.set_title(part, color=COLOURS[part], fontweight="bold")
        axis.set_xlabel(label("dose"))
    axes[0].set_ylabel(label("kl"))
    _legend_below(figure, axes[0], ncols=2)
    _title(figure, title)
    return figure


@styled
def plot_distance(curves, control, *, title=None):
    """Score that a constant in the keys adds, against the distance back to the key; one panel per layer.

    Args:
        curves: {layer: `[sentence, head, distance]`} of `score_by_distance`; each head is a line with its interval.
        control: the same for a random vector, drawn in grey.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(curves), figsize=(9.6, 3.5), sharex=True)
    for axis, layer in zip(axes, curves, strict=True):
        for values, colour, name in (
            (control[layer], "0.6", "random_draw"),
            (curves[layer], COLOURS["K"], "each_head"),
        ):
            for head in np.asarray(values, dtype=np.float64).transpose(1, 0, 2):  # [sentence, distance]
                mean, reach = np.array([mean_and_reach(column) for column in head.T]).T
                axis.plot(range(len(mean)), mean, color=colour, lw=0.9, label=label(name))
                axis.fill_between(range(len(mean)), mean - reach, mean + reach, color=colour, alpha=0.15, lw=0)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_title(f"{label('layer')} {layer}")
        axis.set_xlabel(label("distance"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    span = max(1, *(abs(limit) for limit in axes[0].get_ylim()))
    axes[0].set(ylabel=label("score_change"), ylim=(-span, span))  # rounding must not look like a slope
    _legend_below(figure, axes[0], ncols=2)
    _title(figure, title)
    return figure


@styled
def plot_pairs(shares, *, title=None):
    """Share of the mean in the energy of every rotary pair, from fast to slow; one panel per layer.

    Args:
        shares: {layer: {part: `[head, pair]`}}: lines are means over the heads, bands run from the lowest to the
            highest head.
        title: above the figure.
    """
    figure, axes = _row_of_panels(len(shares), figsize=(9.6, 3.4), sharex=True)
    for axis, (layer, parts) in zip(axes, shares.items(), strict=True):
        for part, values in parts.items():
            pair = range(values.shape[-1])
            axis.plot(pair, values.mean(dim=0), color=COLOURS[part], label=part)
            axis.fill_between(pair, values.amin(dim=0), values.amax(dim=0), color=COLOURS[part], alpha=0.18, lw=0)
        axis.set_title(f"{label('layer')} {layer}")
        axis.set_xlabel(label("rotary_pair"))
    axes[0].set(ylabel=label("mean_share"), ylim=(-0.02, 1.02))
    _legend_below(figure, axes[0], ncols=2)
    _title(figure, title)
    return figure


def _row_of_panels(number, **options):
    figure, axes = plt.subplots(1, number, squeeze=False, sharey=True, layout="constrained", **options)
    return figure, axes[0]


def _legend_below(figure, axis, ncols):
    handles, names = axis.get_legend_handles_labels()
    once = dict(zip(names, handles))
    if axis.get_legend():
        axis.get_legend().remove()
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=ncols)


def _title(figure, title):
    if title:
        figure.suptitle(title, fontsize=11)
