"""Predict, then reveal: a box after each prediction of a notebook, and one sheet with all of them to print."""

from tools.course import PREDICTION
from tools.site import WORDS


def prediction(source):
    """The paragraph of a markdown cell that asks for a prediction, or ""."""
    return next((part.strip() for part in source.split("\n\n") if any(word in part for word in PREDICTION)), "")


def ask(notebook, stem):
    """Put an empty box, which predict.js fills, at the end of each cell that asks; its key names it in the browser."""
    asking = (cell for cell in notebook.cells if cell.cell_type == "markdown" and prediction(cell.source))
    for number, cell in enumerate(asking, 1):
        cell.source += f'\n\n<div class="prediction" data-key="{stem[:2]}-{number}"></div>'


def sheet(notebooks, language):
    """Markdown of the sheet: every prediction of the notebooks, with room to write."""
    parts = [f"# {WORDS[language]['sheet']}", WORDS[language]["sheet_text"]]
    for notebook in notebooks:
        texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        heading = next(line for text in texts for line in text.splitlines() if line.startswith("# "))
        parts.append(f"#{heading}")
        questions = [prediction(text) for text in texts]
        parts += [f'{question}\n\n<div class="write-here"></div>' for question in questions if question]
    return "\n\n".join(parts) + "\n"
