"""The slides: what stands where by rule, and that every slide of every deck fits, with no network."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

ROOT = Path(__file__).resolve().parents[2]
from tools import course, slides

EACH = [(path, language) for path in course.sources() for language in course.LANGUAGES]
NAMES = [f"{path.stem}-{language}" for path, language in EACH]
# Every slide as it is when one stands on it; MathJax has set every formula by then.
MEASURE = r"""async () => {
  await MathJax.startup.promise;
  return Reveal.getSlides().map(slide => {
    const at = Reveal.getIndices(slide);
    Reveal.slide(at.h, at.v);
    slide.querySelectorAll('.fragment').forEach(part => part.classList.add('visible'));
    return {
      at: [at.h, at.v ?? 0],
      text: slide.innerText,
      overflow: [slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth],
      height: slide.getBoundingClientRect().height,
      images: [...slide.querySelectorAll('img')].map(image => [image.naturalWidth, image.offsetHeight]),
      wrong: slide.querySelectorAll('[data-mjx-error]').length
    };
  });
}"""


def stored(path, language):
    return nbformat.read(course.stored(path, language), as_version=4)


def pages(notebook):
    """The cells of each slide."""
    found = []
    for cell in slides.deck(notebook).cells:
        if cell.metadata.slideshow.slide_type in ("slide", "subslide"):
            found.append([])
        found[-1].append(cell)
    return found


# ---- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "language"), EACH, ids=NAMES)
def test_a_prediction_stands_on_a_slide_of_its_own_before_what_it_is_about(path, language):
    notebook = stored(path, language)
    found = pages(notebook)
    asked = [block for cell in notebook.cells for block in slides.blocks(cell.source) if cell.cell_type == "markdown"]
    asked = [block for block in asked if block.startswith(slides.PREDICTION)]
    alone = [page for page in found if any('class="prediction"' in cell.source for cell in page)]
    assert asked and len(alone) <= len(asked)
    for block in asked:
        (page,) = (page for page in found if any(block in cell.source for cell in page))
        assert not any(cell.get("outputs") for cell in page)


@pytest.mark.parametrize(("path", "language"), EACH, ids=NAMES)
def test_what_has_no_place_on_a_slide_is_left_out_and_the_rest_is_there(path, language):
    notebook = stored(path, language)
    found = pages(notebook)
    text = "\n".join(cell.source for page in found for cell in page)
    for hidden in ("@title", "<details", "sys.path", ".ipynb)", "from helpers"):
        assert hidden not in text
    drawn = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    shown = [
        [o for cell in page for o in cell.get("outputs", []) if "image/png" in o.get("data", {})] for page in found
    ]
    assert sum(map(len, shown)) == len(drawn) and max(map(len, shown)) == 1
    for cell in notebook.cells:  # no word of a text is lost but short answers and links
        if cell.cell_type == "markdown" and "links" not in cell.id:
            for sentence in re.split(r"\s{2,}|(?<=[.?!]) ", slides.DETAILS.sub("", cell.source)):
                assert sentence in text or " ".join(sentence.split()) in " ".join(text.split())


def test_long_code_is_hidden_and_what_it_prints_stays():
    def shown(lines, printed):
        cell = new_code_cell("\n".join(f"a = {n}" for n in range(lines)))
        cell.outputs = [new_output("stream", text="\n".join("b" * printed))]
        return [
            (bool(part.source), bool(part.outputs), part.metadata.slideshow.slide_type) for part in slides.code(cell)
        ]

    assert shown(12, 3) == [(True, False, "subslide"), (False, True, "fragment")]
    assert shown(12, 15) == [(True, False, "subslide"), (False, True, "subslide")]
    assert shown(13, 3) == [(False, True, "subslide")]


def test_an_overflowing_text_goes_on_at_the_next_paragraph_point_or_sentence():
    paragraph = "Mười hai chữ trong một câu không dài hơn một dòng. " * 12
    texts = [text for _, text in slides.texts(f"## Đề mục\n{paragraph}\n\n{paragraph}\n\n{paragraph}")]
    assert len(texts) > 1 and texts[0].startswith("## ") and not texts[1].startswith("#")
    long_list = "\n".join(f"- {n} {paragraph}" for n in range(6))
    parts = slides.split(long_list)
    assert len(parts) > 1 and all(part.startswith("- ") for part in parts) and "\n".join(parts) == long_list
    parts = slides.split((paragraph * 4).strip())
    assert len(parts) > 1 and all(slides.height(part) <= slides.MOST_LINES for part in parts)
    formula = "$$\na\n\nb\n$$"
    assert slides.blocks(f"c\n\n{formula}\n\nd") == ["c", formula, "d"]


# ---- in the browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    slides.build(folder)
    return folder


@pytest.fixture(scope="module")
def context(browser):
    return browser.new_context(viewport={"width": slides.WIDTH, "height": slides.HEIGHT})


def watched(context, address):
    """(page, what went wrong on it or was asked of another host), opened."""
    page, trouble = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("console", lambda said: trouble.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("requestfailed", lambda request: trouble.append(request.url))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else trouble.append(request.url)
    )
    page.goto(address)
    return page, trouble


@pytest.mark.parametrize(("path", "language"), EACH, ids=NAMES)
def test_every_slide_fits_with_its_mathematics_set_and_no_request_outside(folder, context, path, language):
    target = folder / language / f"{path.stem}.html"
    page, trouble = watched(context, target.as_uri())
    found = page.evaluate(MEASURE)
    formulas = page.locator("mjx-container").count()
    page.close()
    assert trouble == []
    assert len(found) == len(pages(stored(path, language)))
    source = "\n".join(cell.source for cell in stored(path, language).cells if cell.cell_type == "markdown")
    assert formulas > 0 or "$" not in source
    for slide in found:
        assert slide["overflow"] == [0, 0] and 0 < slide["height"] <= slides.HEIGHT, slide
        assert slide["text"].strip() and not slide["wrong"], slide
        assert not re.search(r"\$[^$\n]+\$|\\frac|\\sum", slide["text"]), slide
        assert all(width > 0 and height > 100 for width, height in slide["images"]), slide
    assert "http" not in re.sub(r"data:[^\"]*", "", target.read_text(encoding="utf-8")).replace("http://www.w3.org", "")


def test_the_browser_check_sees_a_slide_that_does_not_fit(folder, context):
    target = folder / "en" / "too_long.html"
    text = (folder / "en" / "02_cosine_and_correlation.html").read_text(encoding="utf-8")
    target.write_text(text.replace("<h2", "<p>more</p>" * 30 + "<h2", 1), encoding="utf-8")
    page, _ = watched(context, target.as_uri())
    assert max(slide["overflow"][0] for slide in page.evaluate(MEASURE)) > 0
    page.close()


def test_the_list_of_decks_leads_to_each(folder, context):
    page, trouble = watched(context, (folder / "index.html").as_uri())
    links = page.eval_on_selector_all("a", "links => links.map(link => [link.getAttribute('href'), link.innerText])")
    page.close()
    assert [link for link, _ in links] == [
        f"{language}/{path.stem}.html" for language in course.LANGUAGES for path in course.sources()
    ]
    assert trouble == [] and all((folder / link).is_file() and title[:2] == link[3:5] for link, title in links)
