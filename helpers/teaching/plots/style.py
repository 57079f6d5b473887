"""What all figures share: fonts, panels, ticks, legends."""

import functools

import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from helpers.masks import part_slices
from helpers.settings import get_language, localised
from helpers.teaching.labels import label
from helpers.teaching.plots.palette import COLOURS

# DejaVu Sans has every Vietnamese letter
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.family": "DejaVu Sans"}
# A token may be "$$": no text of a figure is a formula, whatever the reader's settings say.
LITERAL = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}


def styled(draw):
    """Draw in the module's style without touching the reader's own settings."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        # not plt.rc_context: on leaving, it would also switch off the notebook's interactive display
        before = {name: plt.rcParams[name] for name in LITERAL}
        plt.rcParams.update(LITERAL)
        try:
            with sns.axes_style("ticks", STYLE), sns.plotting_context("paper", font_scale=1.05):
                drawn = draw(*args, **kwargs)
                return spoken(drawn) if isinstance(drawn, Figure) else drawn
        finally:
            plt.rcParams.update(before)

    return styled


def _ticks(write, language, places):
    return [localised(tick, language) for tick in write(places)]


def spoken(figure):
    """The figure with its numbers as the language writes them, and with words in its PNG.

    The words, under the PNG keyword "Description", are for those who cannot see it: title, panels, axes, legends.
    """
    for axis in (ticks for axes in figure.axes for ticks in (axes.xaxis, axes.yaxis)):
        form = axis.get_major_formatter()
        form.format_ticks = functools.partial(_ticks, form.format_ticks, get_language())
    for text in figure.findobj(Text):
        text.set_text(localised(text.get_text()))

    def told(name, *values):
        texts = dict.fromkeys(text for text in values if text and not text.startswith("\u200b"))
        return f"{label(name)}: {', '.join(texts)}." if texts else ""

    legends = [legend for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)) if legend]
    parts = [
        told("figure", figure.get_suptitle()),
        told("panels", *(axes.get_title() for axes in figure.axes)),
        told("axes", *(axes.get_xlabel() for axes in figure.axes), *(axes.get_ylabel() for axes in figure.axes)),
        told("drawn", *(text.get_text() for legend in legends for text in legend.get_texts())),
    ]
    words = {"Description": " ".join(filter(None, parts)).replace("\n", " ")}
    figure.canvas.print_png = functools.partial(figure.canvas.print_png, metadata=words)
    return figure


@functools.cache
def _in_the_font(letter):
    return get_font(findfont(STYLE["font.family"])).get_char_index(ord(letter)) > 0


def plain(text, most=60):
    """Text of others (a token, a word, a name of a model or a condition) as it can be read in a figure.

    What cannot be seen, or has no shape in the font, is written as Python writes it; blank text stands in quotes;
    of more than `most` characters those in the middle are counted.

    >>> print(plain("her\\n"), plain(" "), plain("$x_1$"), plain("a" * 9 + "b" * 9, most=4))
    her\\n " " $x_1$ aa…(+14)…bb
    """
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]}…(+{len(text) - most // 2 * 2})…{text[-(most // 2) :]}"
    text = "".join(c if c == " " or (c.isprintable() and _in_the_font(c)) else ascii(c)[1:-1] for c in text)
    # matplotlib leaves what begins with an underscore out of a legend: an invisible sign goes before it
    return "\u200b" * text.startswith("_") + (text if text.strip() else f'"{text}"')


def to_numpy(values):
    """Numbers, or a tensor on any device, as a NumPy array."""
    return torch.as_tensor(values).numpy(force=True)


def panel_grid(n_rows, n_columns, width, height, x="", y="", **options):
    """A figure and its panels `[row, column]`, on one scale unless `options` (of `plt.subplots`) say otherwise.

    `x` and `y` are keys of the labels below the last row and beside the first column.
    """
    options = {"sharex": True, "sharey": True, "figsize": (width, height), **options}
    figure, axes = plt.subplots(n_rows, n_columns, squeeze=False, layout="constrained", **options)
    plt.setp(axes[-1], xlabel=label(x))
    plt.setp(axes[:, 0], ylabel=label(y))
    return figure, axes


def name_panel(axis, name, **options):
    """The name of a part, a block or a measure above its panel, in its colour; `options` of the text."""
    axis.set_title(plain(label(name)), color=COLOURS.get(name, COLOURS["Q"]), fontweight="bold", **options)


def finish(figure, axis=None, ncols=1, title=None, n=None):
    """The figure, with one legend below its panels (that of `axis`), and above them the title and n sentences."""
    handles, names = axis.get_legend_handles_labels() if axis else ((), ())
    for panel in figure.axes:
        if panel.get_legend():  # seaborn draws one in each
            panel.get_legend().remove()
    once = dict(zip(names, handles, strict=True))
    for columns in range(ncols, 0, -1) if once else ():  # as many as there is room for
        legend = figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=columns, frameon=False)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    title = title and plain(title, 200)
    figure.suptitle(" · ".join(filter(None, (title, n and f"n = {n} {label('sentences')}"))), fontsize=11, wrap=True)
    return figure


def similarity_axis(axis):
    """Similarities from -1 to 1 on the x axis, with room for the outer bins."""
    axis.set_xlim(-1.03, 1.03)
    axis.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])


def mark_parts(axis, sizes):
    """Lines where Q, K and V meet on both axes, of which feature i takes the place from i to i + 1."""
    at = part_slices(sizes)
    for part in list(at.values())[1:]:
        axis.axhline(part.start, color="black", lw=0.8)
        axis.axvline(part.start, color="black", lw=0.8)
    middles = [(part.start + part.stop) / 2 for part in at.values()]
    axis.set_xticks(middles, at)
    axis.set_yticks(middles, at, rotation=0)
    axis.tick_params(length=0)
    axis.set(xlabel=label("feature"), ylabel=label("feature"))
    axis.spines[:].set_visible(True)


def densities(histogram):
    """Probability density in each bin: float64 `[..., bins]`; NaN where every pair is undefined."""
    counts, edges = histogram.counts.double(), histogram.edges
    return counts / (counts.sum(-1, keepdim=True) * (edges[1] - edges[0]))
