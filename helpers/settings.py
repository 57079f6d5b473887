"""The language in which `helpers` speaks, Vietnamese or English, and the folder of what it keeps."""

import os
import re
import tomllib
import unicodedata
from pathlib import Path

LANGUAGES = ("vi", "en")
MESSAGES = tomllib.loads(Path(__file__).with_name("data").joinpath("messages.toml").read_text(encoding="utf-8"))
"""Key: [Vietnamese, English], with names in braces."""
NUMBER, SWAPPED = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![.,]?\w)"), str.maketrans(".,", ",.")
_language = "en"


def set_language(language):
    """Choose the language of everything that `helpers` shows: "vi" or "en".

    >>> set_language("en")
    """
    global _language
    if language not in LANGUAGES:  # in both: none may have been chosen yet
        raise ValueError(" · ".join(MESSAGES["language"]).format(language=language))
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


def localised(text, language=None):
    """A text with its numbers as a language (None: the one in use) writes them; versions and numbers in words stay.

    >>> set_language("vi"); localised("S = 0.38 [0.34, 0.43], 5% [2%, 17%], n = 1,234 (0.1.2)"); set_language("en")
    'S = 0,38 [0,34; 0,43], 5% [2%; 17%], n = 1.234 (0.1.2)'
    """
    if (language or _language) == "vi":
        text = NUMBER.sub(lambda number: number[0].translate(SWAPPED), text)
        text = re.sub(r"(,\d+|\[[+-]?\d+%), (?=[+-]?\d)", r"\1; ", text)
    return text


def show(*values, **options):
    """`print`, with the numbers in the values `localised`."""
    print(*(localised(str(value)) for value in values), **options)


def message(key, **facts):
    """A text of `MESSAGES` in the language in use, with the facts in place of their names."""
    return say(*MESSAGES[key]).format(**facts)


def first_line(error):
    """What somebody else's error says, on one line of at most 300 characters, with its type where that adds something."""
    text = re.split(r"(?<!:)\n", str(error).strip())[0].replace("\n", " ")[:300]
    enough = text and (isinstance(error, (OSError, ImportError, RuntimeError)) or type(error) is ValueError)
    return text if enough else f"{type(error).__name__}: {text}".removesuffix(": ")


def cache_dir():
    """Where wheel models are kept: QKV_CACHE if set, else the user's cache folder of this system."""
    if named := os.environ.get("QKV_CACHE"):
        return Path(os.path.expanduser(named))
    import platformdirs  # here: a machine that only proves the kernels has none and names a folder

    return Path(platformdirs.user_cache_dir("qkv-token-similarity"))
