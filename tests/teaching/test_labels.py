"""The labels of figures and tables, in both languages."""

import unicodedata

from helpers import label, set_language
from helpers.settings import LANGUAGES
from helpers.teaching.labels import LABELS


def test_every_label_is_given_in_the_language_in_use():
    for i in (0, 1):
        set_language(LANGUAGES[i])
        for key, texts in LABELS.items():
            assert label(key) == texts[i] == unicodedata.normalize("NFC", texts[i].strip()) != "", key
            assert len(texts) == len(LANGUAGES)
        assert [label(key) for key in ("layer", "QK")] == [["tầng", "layer"][i], "QK"]  # unknown: its own label
