"""The language in which `helpers` speaks, Vietnamese or English, and the folder of what it keeps."""

import os
import unicodedata
from pathlib import Path

LANGUAGES = ("vi", "en")
_language = "en"


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


def cache_dir():
    """Where wheel models are kept: QKV_CACHE if set, else the user's cache folder of this system."""
    if named := os.environ.get("QKV_CACHE"):
        return Path(named)
    import platformdirs  # here: a machine that only proves the kernels has none and names a folder

    return Path(platformdirs.user_cache_dir("qkv-token-similarity"))
