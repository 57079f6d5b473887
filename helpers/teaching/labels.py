"""The labels of figures and tables, in both languages: the table is helpers/data/labels.toml."""

import tomllib

from helpers.settings import say
from helpers.text import DATA

LABELS = tomllib.loads(DATA.joinpath("labels.toml").read_text(encoding="utf-8"))  # key: [Vietnamese, English]


def label(key):
    """A label by its key in `LABELS`, in the language in use; an unknown key is its own label.

    >>> label("correlation"), label("Q")
    ('Pearson correlation', 'Q')
    """
    return say(*LABELS.get(key, (key, key)))
