"""The language of labels, tables and exercise feedback: Vietnamese or English."""

import unicodedata

LANGUAGES = ("vi", "en")
_language = "en"

# One row a label: key -> (Vietnamese, English).  The terms are those of the module's glossary.
LABELS = {
    "cosine": ("độ tương đồng cosine", "cosine similarity"),
    "correlation": ("hệ số tương quan Pearson", "Pearson correlation"),
    "density": ("mật độ", "density"),
    "target": ("token đích", "target token"),
    "control": ("token đối chứng", "control token"),
    "baseline": ("mức nền: xáo trộn mọi phần tử", "baseline: all entries shuffled"),
    "baseline_short": ("mức nền", "baseline"),
    "layers": ("tầng", "layers"),
    "entries_shuffled": ("xáo trộn mọi phần tử", "all entries shuffled"),
    "within_shuffled": ("xáo trộn trong từng chiều", "shuffled within features"),
    "flipped": ("đổi dấu vector của câu", "sentences flipped"),
    "null": ("phân phối null", "null distribution"),
    "layer": ("tầng", "layer"),
    "head": ("đầu attention", "attention head"),
    "sentence": ("câu", "sentence"),
    "sentences": ("câu", "sentences"),
    "query_position": ("vị trí của truy vấn", "query position"),
    "key_position": ("vị trí của khóa", "key position"),
    "attention_weight": ("trọng số attention", "attention weight"),
    "feature": ("chiều (feature)", "feature"),
    "value": ("giá trị của chiều", "value of the feature"),
    "mean": ("trung bình", "mean"),
    "std": ("độ lệch chuẩn", "standard deviation"),
    "similarity": ("độ tương đồng", "similarity"),
    "offset": ("độ dời cộng vào cả hai chiều", "offset added to both features"),
    "offset_short": ("độ dời", "offset"),
    "undefined": ("không xác định", "undefined"),
    "pairs": ("số cặp", "pairs"),
    "smile_index": ("chỉ số nụ cười S", "smile index S"),
    "no_pairs": ("mọi cặp đều không xác định", "every pair is undefined"),
    "block": ("khối", "block"),
    "code": ("mã", "code"),
    "n_sentences": ("số câu n", "number of sentences n"),
    "taken_out": ("tỉ lệ trung bình đã trừ, a", "share of the mean taken out, a"),
    "effective_n": ("cỡ mẫu hiệu dụng", "effective sample size"),
    "offset_energy": ("tỉ lệ năng lượng của độ dời", "share of the energy that is offset"),
    "energy_share": ("tỉ lệ năng lượng", "share of the energy"),
    "part_common": ("trung bình chung", "common mean"),
    "part_word": ("phần riêng của từ", "the word's own part"),
    "part_context": ("phần do ngữ cảnh", "what the context adds"),
    "size_of_parts": ("độ lớn (rms theo các chiều)", "size (rms over the features)"),
    "offset_size": ("độ dời trung bình", "mean offset"),
    "spread_size": ("độ phân tán quanh trung bình", "spread around the mean"),
    "relative_offset": ("|μ| / σ (trung vị)", "|μ| / σ (median)"),
    "pooled": ("gộp mọi đầu", "all heads pooled"),
    "head_mean": ("trung bình các đầu", "mean of the heads"),
    "head_interval": ("từng đầu, khoảng tin cậy jackknife 95%", "each head, 95% jackknife interval"),
    "random_cut_band": ("nhóm ngẫu nhiên, 90% ở giữa", "random groups, middle 90%"),
    "real_heads": ("các đầu thật", "the real heads"),
    "random_groups": ("nhóm ngẫu nhiên, lớn nhất", "random groups, largest"),
    "random_groups_mean": ("nhóm ngẫu nhiên, trung bình", "random groups, mean"),
    "spread_over_heads": ("độ lệch chuẩn của S", "standard deviation of S"),
    "verdict_holds": ("đúng", "holds"),
    "verdict_partly": ("đúng một phần", "holds partly"),
    "verdict_fails": ("sai", "fails"),
    "verdict_undefined": ("không xác định", "undefined"),
    "relative_depth": ("tầng / tầng cuối", "layer / last layer"),
    "bias_share": ("tỉ lệ của bias trong độ dời", "share of the bias in the offset"),
    "kl": ("KL (nat / token)", "KL (nats / token)"),
    "edit_interval": ("can thiệp, khoảng tin cậy 95% qua các câu", "edit, 95% interval over sentences"),
    "random_draw": ("vector ngẫu nhiên cùng độ dài", "random vector of equal length"),
    "dose": ("liều lượng a", "dose a"),
    "context_free": ("máy đoán chưa đọc văn bản", "predictor that has not read the text"),
    "stricter_draw": ("đối chứng khắt khe hơn", "stricter control"),
    "offset_swapped": ("hoán đổi độ dời (K và V)", "offset swapped (K and V)"),
    "only_k": ("độ dời, chỉ K", "offset, K only"),
    "only_v": ("độ dời, chỉ V", "offset, V only"),
    "only_layer_0": ("độ dời, chỉ tầng 0", "offset, layer 0 only"),
    "deviation_swapped": ("hoán đổi độ lệch (K và V)", "deviations swapped (K and V)"),
    "wrong_word": ("đối chứng: độ dời từ thứ ba", "control: offset of a wrong word"),
    "without_common": ("bỏ trung bình chung", "without the common mean"),
    "without_own": ("bỏ phần riêng của từ", "without the word's own part"),
    "without_context": ("bỏ phần do ngữ cảnh", "without what the context adds"),
    "without_random": ("đối chứng: ngẫu nhiên, dài bằng phần riêng", "control: random, as long as the own part"),
    "needed": ("cần thiết", "needed"),
    "specific": ("đặc thù", "specific"),
    "enough": ("tự nó đủ", "enough"),
    "after_rotary": ("trừ khỏi mọi khóa, sau bước xoay", "subtracted from all keys, after the rotary step"),
    "before_rotary": ("trừ khỏi mọi khóa, trước bước xoay", "subtracted from all keys, before the rotary step"),
    "each_head": ("trung bình chung của K, từng đầu, khoảng tin cậy 95%", "K's common mean, each head, 95% interval"),
    "rotary_pair": ("cặp chiều (xoay nhanh → chậm)", "rotary pair, from fast to slow"),
    "mean_share": ("tỉ lệ năng lượng của trung bình", "share of the mean in the energy"),
    "tokens": ("token", "tokens"),
    "distance": ("khoảng cách đến khóa (token)", "distance back to the key (tokens)"),
    "score_change": ("điểm cộng thêm", "score added"),
    "unedited": ("không can thiệp", "unedited"),
    "mean_ablated": ("thay bằng trung bình", "mean-ablated"),
}


def set_language(language):
    """Choose the language of everything that `helpers` shows: "vi" or "en".

    >>> set_language("en")
    """
    global _language
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}: expected 'vi' (tiếng Việt) or 'en' (English)")
    _language = language


def get_language():
    """The language in use, "vi" or "en"."""
    return _language


def say(vi, en):
    """The one of two texts that is in the language in use.

    >>> say("tầng", "layer")
    'layer'
    """
    return unicodedata.normalize("NFC", vi if _language == "vi" else en)


def label(key):
    """A label by its key in `LABELS`, in the language in use; an unknown key is its own label.

    >>> label("correlation"), label("Q")
    ('Pearson correlation', 'Q')
    """
    return say(*LABELS.get(key, (key, key)))
