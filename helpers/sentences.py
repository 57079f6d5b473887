"""The sentence sets that travel with the module (CC0, see the first lines of each file)."""

from importlib import resources

TARGETS = {"cua": "của"}
"""Target words that are not the name of their set: file names are ASCII."""


def sentence_sets():
    """Names of the sets.  Each is the target word of its sentences, but for those in `TARGETS`.

    >>> sentence_sets()
    ('cua', 'her', 'water')
    """
    files = resources.files("helpers").joinpath("data").iterdir()
    return tuple(sorted(f.name[len("sentences_") : -len(".txt")] for f in files if f.name.startswith("sentences_")))


def load_sentences(name="her"):
    """The sentences of one set, as a list of strings.

    Every sentence holds the word once, with a space before it.

    Raises:
        ValueError: no such set.

    >>> len(load_sentences("her")), " her" in load_sentences("her")[0]
    (54, True)
    """
    if name not in sentence_sets():
        raise ValueError(f"no sentence set {name!r}: expected one of {', '.join(sentence_sets())}")
    text = resources.files("helpers").joinpath("data", f"sentences_{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def load_ordinary():
    """Eighty ordinary sentences with no word in common that matters, for measuring a model's loss.

    >>> len(load_ordinary())
    80
    """
    text = resources.files("helpers").joinpath("data", "ordinary.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
