"""The menu at both ends of a notebook: every other notebook is one click away."""

import re
from pathlib import Path

import pytest

from tools import course

ROOT = Path(__file__).resolve().parents[2]


SOURCES = course.sources()
every_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@every_notebook
@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_menu_leads_to_every_other_notebook_and_to_the_other_language(path, language):
    menu = course.links(path, language)
    other = {"vi": "en", "en": "vi"}[language]
    targets = set(re.findall(r"\]\(([^)\s]+)\)", menu))
    glossary = {"vi": "../../docs/glossary.vi.md", "en": "../../docs/glossary.md"}[language]
    assert targets == {f"{s.stem}.ipynb" for s in SOURCES if s != path} | {f"../{other}/{path.stem}.ipynb", glossary}
    assert (course.stored(path, language).parent / glossary).is_file()
    assert f"**{path.stem[:2]}**" in menu and "\n" not in menu


@every_notebook
def test_the_menu_has_the_notebooks_in_order_and_arrows_to_the_neighbours(path):
    at = SOURCES.index(path)
    menu = course.links(path, "en")
    labels = re.findall(r"\[([^\]]+)\]\(|\*\*(\d\d)\*\*", menu)
    labels = [link or here for link, here in labels]
    before = [f"← {SOURCES[at - 1].stem[:2]}"] if at else []
    after = [f"{SOURCES[at + 1].stem[:2]} →"] if at + 1 < len(SOURCES) else []
    assert labels == [*before, *(s.stem[:2] for s in SOURCES), *after, "Tiếng Việt", "glossary"]


@every_notebook
def test_the_menu_stands_at_both_ends(path):
    notebook = course.assemble(path, "vi")
    menu = course.links(path, "vi")
    assert [cell.id for cell in (notebook.cells[0], notebook.cells[-1])] == ["links-top", "links-bottom"]
    assert all(menu in cell.source for cell in (notebook.cells[0], notebook.cells[-1]))
