"""The slides: what stands where by rule, and that every slide of every deck fits, with no network."""

import re
from functools import cache
from pathlib import Path

import nbformat

from tests.support.web import watch
from tools import slides
from tools.course import LANGUAGES, sources, stored

HIDDEN = {"setup", "exercise", "solution"}  # tags of cells that show nothing of what they print
NOTEBOOKS = {
    f"{language}/{path.stem}": nbformat.read(stored(path, language), as_version=4)
    for language in LANGUAGES
    for path in sources()
}


@cache
def pages(name):
    """The cells of each slide of a notebook."""
    return slides_of(slides.deck(NOTEBOOKS[name], slides.notes_on(name[3:5], name[:2])))


def slides_of(deck):
    found = []
    for cell in deck.cells:
        if cell.metadata.slideshow.slide_type in ("slide", "subslide"):
            found.append([])
        found[-1].append(cell)
    return found


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_a_prediction_stands_on_a_slide_of_its_own_before_its_figure():
    for name, notebook in NOTEBOOKS.items():
        found = pages(name)
        texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        asked = [b for text in texts for b in slides.blocks(text) if b.startswith(slides.PREDICTION)]
        alone = [page for page in found if any('class="prediction"' in cell.source for cell in page)]
        assert asked and len(alone) <= len(asked), name
        for block in asked:
            (page,) = (page for page in found if any(block in cell.source for cell in page))
            assert not any(cell.get("outputs") for cell in page), name


def test_a_figure_stands_beside_its_code_and_its_reading_where_they_fit():
    (page,) = (page for page in pages("en/04_cosine_smile") if "layers = sorted(" in page[min(1, len(page) - 1)].source)
    assert "plot_blocks(" in page[1].source and "image/png" in page[2].outputs[0].data
    assert page[3].source.startswith("The coloured area is the target") and len(page) == 4


def test_speakers_notes_at_a_prediction_are_those_of_the_lecturers_page():
    for name in NOTEBOOKS:
        notes = [cell.source for page in pages(name) for cell in page if cell.metadata.slideshow.slide_type == "notes"]
        assert notes and all(text.startswith(f"**{name[3:5]}, ") for text in notes), name


def test_plans_have_a_deck_each_of_the_sections_that_they_name():
    assert slides.named("06, section 7; 09, the figure of section 2") == {"06": {7}, "09": {2}}
    assert slides.named("04, sections 2 to 4 and 6 to 8") | slides.named("01") == {"04": {2, 3, 4, 6, 7, 8}, "01": None}
    for language in LANGUAGES:
        decks = {path.stem[:2]: slides.deck(NOTEBOOKS[f"{language}/{path.stem}"]) for path in sources()}
        found = slides.plans(language, decks)
        assert list(found) == ["plan-1", "plan-2"]
        text = "\n".join(cell.source for cell in found["plan-1"].cells)
        there = re.findall(r"^## (\d+)\. ", text, re.MULTILINE)
        assert there == [*"234", *"2345", "3", *"234678", *"234", "7", "2"]
        assert sum(source.startswith("## 0–35") for source in (cell.source for cell in found["plan-2"].cells)) == 1


def test_what_has_no_place_on_a_slide_is_left_out_and_the_rest_is_there():
    for name, notebook in NOTEBOOKS.items():
        found = pages(name)
        text = "\n".join(cell.source for page in found for cell in page)
        for hidden in ("@title", "<details", "sys.path", ".ipynb)", "from helpers"):
            assert hidden not in text, name
        kept = [cell for cell in notebook.cells if not HIDDEN & {*cell.metadata.get("tags", [])}]
        kept = [cell for cell in kept if not cell.source.endswith(".widget")]
        assert sum(len(outputs(page)) for page in found) == len(outputs(kept)), name
        assert max(sum("image/png" in o.get("data", {}) for o in outputs(page)) for page in found) == 1, name
        flat = " ".join(text.split())
        for cell in notebook.cells:  # no word of a text is lost but short answers and links
            if cell.cell_type == "markdown" and "links" not in cell.id:
                for sentence in re.split(r"\s{2,}|(?<=[.?!]) ", slides.DETAILS.sub("", cell.source)):
                    assert " ".join(sentence.split()) in flat, (name, sentence)


def test_every_slide_of_every_listed_deck_fits_and_asks_no_other_host(browser, tmp_path):
    slides.build(tmp_path)
    page = browser.new_page(viewport={"width": slides.WIDTH, "height": slides.HEIGHT})
    page.set_default_timeout(60_000)
    complaints, requests = watch(page)
    page.goto((tmp_path / "index.html").as_uri())
    links = page.eval_on_selector_all("a", "links => links.map(link => [link.getAttribute('href'), link.innerText])")
    names = [link.removesuffix(".html") for link, _ in links]
    assert [name for name in names if "plan" not in name] == list(NOTEBOOKS) and len(names) == len(NOTEBOOKS) + 4
    assert all(title[:2] == link[3:5] for link, title in links if "plan" not in link)
    for name in names:
        target = tmp_path / f"{name}.html"
        page.goto(target.as_uri())
        found = page.evaluate(Path(__file__).with_name("slides.js").read_text())
        assert "plan" in name or len(found) == len(pages(name)), name
        for slide in found:
            assert slide["overflow"] == [0, 0] and 0 < slide["height"] <= slides.HEIGHT, (name, slide)
            assert slide["text"].strip() and not slide["wrong"], (name, slide)
            assert not re.search(r"\$[^$\n]+\$|\\frac|\\sum", slide["text"]), (name, slide)
            seen = [width > 0 and height > 100 and len(alt) > 10 for width, height, alt in slide["images"]]
            assert all(seen), (name, slide)
        assert not re.search(r"(src=|url\(|import)\W*http", re.sub(r"data:[^\"]*", "", target.read_text("utf-8"))), name
    assert complaints == [] and not [url for url in requests if not url.startswith(("file:", "data:"))]
