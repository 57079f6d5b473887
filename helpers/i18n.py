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
    "width_ratio": ("độ rộng / độ rộng của nhiễu", "width / width of noise"),
    "entries_shuffled": ("xáo trộn mọi phần tử", "all entries shuffled"),
    "within_shuffled": ("xáo trộn trong từng chiều", "shuffled within features"),
    "flipped": ("đổi dấu cả câu", "sentences flipped"),
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
    "constant": ("hằng số", "constant"),
    "no_pairs": ("mọi cặp đều không xác định", "every pair is undefined"),
    "block": ("khối", "block"),
    "code": ("mã", "code"),
    "n_sentences": ("số câu n", "number of sentences n"),
    "taken_out": ("tỉ lệ trung bình đã trừ, a", "share of the mean taken out, a"),
    "effective_n": ("cỡ mẫu hiệu dụng", "effective sample size"),
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
    "edit_interval": ("can thiệp, khoảng tin cậy 95% theo câu", "edit, 95% interval over sentences"),
    "random_draw": ("vector ngẫu nhiên cùng độ dài", "random vector of equal length"),
    "random_draw_mean": ("vector ngẫu nhiên cùng độ dài (trung bình)", "random vector of equal length (mean)"),
    "offset_factor": ("độ dời nhân với", "offset multiplied by"),
    "tokens": ("token", "tokens"),
    "distance": ("khoảng cách đến khóa (token)", "distance back to the key (tokens)"),
    "score_change": ("điểm cộng thêm", "score added"),
    "subtract": ("trừ độ dời", "subtract the offset"),
    "subtract_not_first": ("trừ, chừa token đầu", "subtract, first token kept"),
    "after_rotary": ("trừ sau bước xoay", "subtract after the rotary step"),
    "after_rotary_not_first": ("sau bước xoay, chừa token đầu", "after the step, first token kept"),
    "replace": ("chỉ giữ độ dời", "keep only the offset"),
    "zero": ("gán bằng 0", "set to zero"),
    "unedited": ("không can thiệp", "unedited"),
    "edited": ("đã trừ", "subtracted"),
    "restored": ("đã trừ, trả lại điểm của token đầu", "subtracted, scores of the first token restored"),
    "each_head": ("độ dời của K, từng đầu, khoảng tin cậy 95%", "K's offset, each head, 95% interval"),
    "share_of_stream": ("độ dài / độ dài luồng dư", "length / length of the residual stream"),
    "through_wo": ("cộng vào luồng dư", "added to the residual stream"),
    "along_mean": ("cosine với trung bình luồng dư", "cosine with the mean residual stream"),
    "without_unit": ("không đơn vị", "no unit"),
    "on_first": ("attention trên token đầu", "attention on the first token"),
    "one_layer": ("cả tầng", "whole layers"),
    "one_head": ("từng đầu", "single heads"),
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
