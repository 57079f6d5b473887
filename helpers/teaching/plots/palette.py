"""The colours and lines of all figures."""

COLOURS = {"Q": "#0072B2", "K": "#D55E00", "V": "#009E73", "QK": "#CC79A7", "QV": "#56B4E9", "KV": "#E69F00"}
COLOURS |= {2 * part: COLOURS[part] for part in "QKV"}
"""Okabe and Ito's colours, which colour-blind readers tell apart."""

BASELINE = "#999999"
FILLED = {"fill": True, "alpha": 0.55, "lw": 0}
LINES = (
    {"color": "black", "lw": 1.1},
    {"color": BASELINE, "lw": 1.8, "ls": "--"},
    {"color": "#882255", "lw": 1.4, "ls": "-."},
    {"color": "#44AA99", "lw": 1.4, "ls": (0, (5, 1))},
)
"""Histograms: the first filled, in the colour of its block; the control, the baseline and others as lines over it."""
