"""Figures of notebooks 09 and 10: effects of edits, with intervals over sentences and the controls beside them."""

import numpy as np
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from helpers.statistics import mean_ci
from helpers.teaching.labels import label
from helpers.teaching.plots.palette import BASELINE, COLOURS
from helpers.teaching.plots.style import finish, name_panel, panel_grid, plain, styled, to_numpy


def decide(low, high, threshold):
    """Whether a figure with the interval from low to high exceeds the threshold; None if the interval reaches over it.

    >>> decide(0.6, 0.8, 0.5), decide(0.1, 0.4, 0.5), decide(0.4, 0.6, 0.5)
    (True, False, None)
    """
    return None if low <= threshold <= high else low > threshold


def _interval(values):
    mean, reach = mean_ci(values)
    return mean - reach, mean + reach


@styled
def plot_swap(effects, *, controls=(), title=None):
    """KL divergence from the run with the other word, word by word, for every edit, with 95% intervals over sentences.

    `effects` is {word: {key of the edit: KL `[sentence]`}}; of these keys, `controls` (two at most) are drawn in grey.
    """
    words = enumerate(effects.values())
    rows = [(at, plain(label(key)), float(kl)) for at, edits in words for key in edits for kl in edits[key]]
    word, edit, kl = zip(*rows)
    edits = list(next(iter(effects.values())))
    colours = dict(zip((key for key in edits if key not in controls), ("black", *COLOURS.values())))
    palette = [colours.get(key, "0.55") for key in edits]
    markers = ["Ds"[controls.index(key)] if key in controls else "o" for key in edits]
    bars = {"errorbar": _interval, "capsize": 0.06, "err_kws": {"lw": 1.3}, "dodge": 0.55, "linestyles": "none"}
    figure, ((axis,),) = panel_grid(1, 1, 9, 4.2)
    sns.pointplot(x=word, y=kl, hue=edit, palette=palette, markers=markers, **bars, ax=axis)
    axis.axhline(0, color="black", lw=0.6)
    axis.set(xlabel="", ylabel=label("kl"))
    axis.set_xticks(range(len(effects)), [plain(word, 20) for word in effects])
    return finish(figure, axis, 3, title)


@styled
def plot_doses(effects, dose, draws, strict, anchor, *, title=None):
    """KL divergence against the dose of the common mean that is taken away, one panel per part.

    `effects` is {part: {dose: KL `[sentence]`}}, where dose 1 takes all of it away; `draws` and `strict` are
    {part: list of KL `[sentence]`} of random vectors of equal length at `dose`; `anchor` is the KL of the predictor that
    has not read the text.
    """
    figure, axes = panel_grid(1, len(effects), 9.6, 3.6, "dose", "kl")
    for axis, (part, by_dose) in zip(axes[0], effects.items(), strict=True):
        doses, kls = zip((0, 0.0), *((a, float(kl)) for a, kls in by_dose.items() for kl in kls))
        line = {"color": COLOURS[part], "marker": "o", "label": label("edit_interval")}
        sns.lineplot(x=doses, y=kls, errorbar=_interval, err_style="bars", err_kws={"capsize": 3}, **line, ax=axis)
        for controls, marker, name in ((draws, "D", "random_draw"), (strict, "s", "stricter_draw")):
            means = [float(kl.mean()) for kl in controls[part]]
            axis.plot([dose] * len(means), means, marker, mfc="none", color="0.3", label=label(name))
        axis.axhline(anchor, color=BASELINE, ls="--", lw=1.4, label=label("context_free"))
        axis.axhline(0, color="black", lw=0.6)
        name_panel(axis, part)
    return finish(figure, axes[0, 0], 2, title)


@styled
def plot_distance(curves, control, *, title=None):
    """Score that a constant in the keys adds, against the distance back to the key; one panel per layer.

    `curves` is {layer: `[sentence, head, distance]`} of `score_by_distance`, each head a line with its interval;
    `control` is the same for a random vector, drawn in grey.
    """
    figure, axes = panel_grid(1, len(curves), 9.6, 3.5, "distance", "score_change")
    for axis, layer in zip(axes[0], curves, strict=True):
        lines = (control[layer], "0.6", "random_draw"), (curves[layer], COLOURS["K"], "each_head")
        for values, colour, name in lines:
            for head in to_numpy(values).swapaxes(0, 1):  # [sentence, distance]
                mean, reach = np.array([mean_ci(column) for column in head.T]).T
                axis.plot(mean, color=colour, lw=0.9, label=label(name))
                axis.fill_between(range(len(mean)), mean - reach, mean + reach, color=colour, alpha=0.15, lw=0)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_title(f"{label('layer')} {layer}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    span = max(1, *(abs(limit) for limit in axes[0, 0].get_ylim()))
    axes[0, 0].set_ylim(-span, span)  # rounding must not look like a slope
    return finish(figure, axes[0, 0], 2, title)


@styled
def plot_pairs(shares, *, title=None):
    """Share of the mean in the energy of every rotary pair, from fast to slow; one panel per layer.

    `shares` is {layer: {part: `[head, pair]`}}; lines are means over heads, bands reach from the lowest to the highest.
    """
    figure, axes = panel_grid(1, len(shares), 9.6, 3.4, "rotary_pair", "mean_share")
    for axis, (layer, parts) in zip(axes[0], shares.items(), strict=True):
        for part, values in parts.items():
            n_heads, n_pairs = values.shape
            look = {"color": COLOURS[part], "errorbar": ("pi", 100), "err_kws": {"lw": 0}, "label": part}
            sns.lineplot(x=np.tile(range(n_pairs), n_heads), y=to_numpy(values).flatten(), **look, ax=axis)
        axis.set_title(f"{label('layer')} {layer}")
    axes[0, 0].set_ylim(-0.02, 1.02)
    return finish(figure, axes[0, 0], 2, title)
