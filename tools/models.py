"""The table of docs/models*.md, out of helpers/data/architectures.toml.

python -m tools.models
"""

from helpers.capture import ADAPTERS, ARCHITECTURES
from tools.benchmarks.report import between, pages, rewrite, table
from tools.course import WORDS

PAGES = pages("models")


def page(text, language):
    """The page with its table made anew."""
    of, rows = ("vi", "en").index(language), []
    for kind, row in ARCHITECTURES["model"].items():
        said = [ARCHITECTURES["split"][row.get("split", "none")], ARCHITECTURES["between"][row["between"]]["text"]]
        said = "; ".join(words[of] for words in [*said, *([row["note"]] if "note" in row else [])])
        names = ", ".join(f"`{name}`" for name in ADAPTERS[kind].projections)
        rows.append((f"`{kind}`", row["models"], names, said))
    return between(text, "models", table(WORDS[language]["models"], rows))


if __name__ == "__main__":
    rewrite(PAGES, page)
