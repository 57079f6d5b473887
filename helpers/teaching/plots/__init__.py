"""The figures of the notebooks, in the language in use.  Each function returns its figure; `title` stands above it."""

from helpers.teaching.plots.histograms import plot_blocks, plot_conditions, plot_one_curve
from helpers.teaching.plots.layers import (
    plot_depth,
    plot_head_maps,
    plot_heads,
    plot_layer_histograms,
    plot_relative_depth,
)
from helpers.teaching.plots.small import plot_attention, plot_feature_pair, plot_matrix_mask, plot_similarity
from helpers.teaching.plots.style import densities
