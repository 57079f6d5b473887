"""The small library of the module; notebooks use `from helpers import ...`."""

from helpers.baselines import cosine_from_correlation, null_density, shuffle_entries, shuffle_within_features
from helpers.capture import (
    QKV,
    attention_modules,
    capture_qkv,
    control_positions,
    edit_qkv,
    encode,
    find_token,
    token_id_of,
)
from helpers.i18n import get_language, label, say, set_language
from helpers.masks import BLOCKS, block_values, matrix_mask, n_block_pairs, part_slices, vector_mask
from helpers.models import environment, load_model
from helpers.sentences import load_ordinary, load_sentences
from helpers.similarity import (
    BlockHistogram,
    BlockHistograms,
    block_histograms,
    cosine_similarity,
    pearson_correlation,
)
from helpers.statistics import (
    effective_n,
    jackknife,
    kolmogorov_smirnov_distance,
    null_shares,
    smile_index,
    wasserstein_distance,
)
