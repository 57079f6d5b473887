"""The slides: what stands where by rule, and that every slide of every deck fits, with no network."""

import re
from functools import cache

import nbformat

from tests.support.web import watch
from tools import slides
from tools.course import LANGUAGES, sources, stored

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

HIDDEN = {"setup", "exercise", "solution"}  # tags of cells that show nothing of what they print
NOTEBOOKS = {
    f"{language}/{path.stem}": nbformat.read(stored(path, language), as_version=4)
    for language in LANGUAGES
    for path in sources()
}


@cache
def pages(name):
    """The cells of each slide of a notebook."""
    found = []
    for cell in slides.deck(NOTEBOOKS[name]).cells:
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
    assert [link for link, _ in links] == [f"{name}.html" for name in NOTEBOOKS]
    assert all(title[:2] == link[3:5] for link, title in links)
    for name in NOTEBOOKS:
        target = tmp_path / f"{name}.html"
        page.goto(target.as_uri())
        found = page.evaluate(MEASURE)
        assert len(found) == len(pages(name)), name
        for slide in found:
            assert slide["overflow"] == [0, 0] and 0 < slide["height"] <= slides.HEIGHT, (name, slide)
            assert slide["text"].strip() and not slide["wrong"], (name, slide)
            assert not re.search(r"\$[^$\n]+\$|\\frac|\\sum", slide["text"]), (name, slide)
            assert all(width > 0 and height > 100 for width, height in slide["images"]), (name, slide)
        text = re.sub(r"data:[^\"]*", "", target.read_text(encoding="utf-8"))
        assert "http" not in text.replace("http://www.w3.org", ""), name
    assert complaints == [] and not [url for url in requests if not url.startswith(("file:", "data:"))]
