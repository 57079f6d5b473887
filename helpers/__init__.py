"""The small library of the module; notebooks use `from helpers import ...`."""

from helpers.baselines import (
    cosine_from_correlation,
    null_density,
    null_shares,
    shuffle_entries,
    shuffle_within_features,
)
from helpers.capture import QKV, attention_modules, capture_qkv
from helpers.experiments.edit import edit_qkv
from helpers.masks import BLOCKS, block_values, matrix_mask, n_block_pairs, part_slices, vector_mask
from helpers.models import environment, load_model
from helpers.settings import get_language, localised, say, set_language, show
from helpers.similarity import BlockHistogram, BlockHistograms, block_histograms, cosine_similarity, pearson_correlation
from helpers.statistics import (
    effective_n,
    jackknife,
    kolmogorov_smirnov_distance,
    mean_ci,
    smile_index,
    wasserstein_distance,
)
from helpers.teaching import tracebacks
from helpers.teaching.labels import label
from helpers.text import control_positions, encode, find_token, load_ordinary, load_sentences, token_id_of

tracebacks.shorten()
__all__ = [name for name, value in globals().items() if not (name.startswith("_") or hasattr(value, "__file__"))]
