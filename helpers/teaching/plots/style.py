"""What all figures share: colours, fonts, axes."""

import functools

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.colors import LogNorm

from helpers.masks import part_slices
from helpers.teaching.labels import label

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


def styled(draw):
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


LINES = (("black", "-"), (BASELINE, "--"), ("#882255", "-."), ("#44AA99", (0, (5, 1))))


def mark_parts(axis, sizes):
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


# ---- across layers and heads ---------------------------------------------------------------------

DENSITY = LogNorm(0.05, 5)
"""Colour scale of every heat map of densities: its middle is 0.5, the density of a uniform distribution."""


def densities(histogram):
    """Probability density in each bin: float64 `[..., bins]`; NaN where every pair is undefined."""
    counts = histogram.counts.double()
    width = histogram.edges[1] - histogram.edges[0]
    return counts / (counts.sum(-1, keepdim=True) * width)
