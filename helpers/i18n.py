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
    "model_attention": ("attention của mô hình", "the model's own attention"),
    "recomputed_attention": ("tính lại từ Q và K", "recomputed from Q and K"),
    "undefined": ("không xác định", "undefined"),
    "pairs": ("số cặp", "pairs"),
    "share": ("tỉ lệ cặp có |s| > {}", "share of pairs with |s| > {}"),
    "smile_index": ("chỉ số nụ cười S", "smile index S"),
    "constant": ("hằng số", "constant"),
    "yes": ("có", "yes"),
    "no": ("không", "no"),
    "no_pairs": ("mọi cặp đều không xác định", "every pair is undefined"),
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
