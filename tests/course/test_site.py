"""The site: built once, served as plain files, every page opened in Chromium at the width of a phone and of a desk."""

import tomllib
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest
import torch
from docutils import nodes

import helpers
import tools.course
from helpers import block_histograms, effective_n, smile_index
from tests.support.web import served, watch
from tools.course import LANGUAGES, ROOT
from tools.site import WORDS, extension
from tools.site import build as builder

WIDE = ("index", "02_cosine_and_correlation", "performance", "api")  # looked at on a desk as well, half in a language
NO_PAGE = {"", ".teaching", ".teaching.plots", ".experiments", ".survey", ".running"}  # rooms: nothing of their own
BEHIND = (".kernels.", ".wheels.", ".teaching.checks.", ".survey.__main__")  # what nobody imports by name
LOOK = Path(__file__).with_name("site.js").read_text(encoding="utf-8")
SETTINGS = tomllib.loads(Path(__file__).with_name("explorer.toml").read_text(encoding="utf-8"))["settings"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    builder.build(folder)
    return folder


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser):
    return browser.new_page()


@pytest.fixture(scope="module")
def visits(site, address, page):
    """{(path, width): what the browser saw}: every page at the width of a phone, four at that of a desk."""
    seen = {}
    complaints, requests = watch(page)
    wide = [f"{('vi', 'en')[at % 2]}/{name}.html" for at, name in enumerate(WIDE)]
    for path, width in [*((path, 390) for path in html_files(site)), *((path, 1280) for path in wide)]:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{address}/{path}", wait_until="load")
        seen[path, width] = page.evaluate(LOOK) | {"complaints": [*complaints], "requests": [*requests]}
        complaints.clear()
        requests.clear()
    return seen


def html_files(site):
    """Paths of all pages but the front page, which leads away at once."""
    return sorted(path.relative_to(site).as_posix() for path in site.glob("*/*.html"))


class Reader(HTMLParser):
    """What a page links to or loads, and the ids that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.switch = [], {""}, None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id", ""))
        self.links += filter(None, map(attributes.get, ("href", "src")))
        if "data-language" in attributes:
            self.switch = attributes["data-language"], attributes["href"]


@pytest.fixture(scope="module")
def read(site):
    return {path: Reader(path) for path in site.rglob("*.html")}


# ---- the built files -----------------------------------------------------------------------------


def test_every_notebook_and_page_is_there_in_both_languages(site):
    names = {path.stem for path in (ROOT / "docs").glob("*.md") if not path.name.endswith(".vi.md")} | {"api"}
    names |= {path.stem for path in (ROOT / "notebooks" / "source").glob("[0-9]*.py")}
    for language in LANGUAGES:
        there = {path.stem for path in (site / language).glob("*.html")}
        assert names <= there and "search" not in there
        navigation = (site / language / "index.html").read_text(encoding="utf-8")
        assert all(f'href="{name}.html"' in navigation for name in names - {"index"})


def test_no_link_inside_the_site_is_broken_and_no_anchor_is_missing(read):
    broken = []
    for path, page in read.items():
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.is_file() or (file in read and unquote(parts.fragment) not in read[file].ids):
                broken.append((path.name, target))
    assert len(read) > 25 and not broken


def test_the_language_switch_leads_to_the_same_page_and_back(site, read):
    for name in html_files(site):
        path = site / name
        language, target = read[path].switch
        other = (path.parent / target).resolve()
        assert language == other.parent.name != path.parent.name and other.name == path.name


def test_notebooks_fold_solutions_and_setup_and_can_be_downloaded(site):
    for stored in sorted(path for language in LANGUAGES for path in (ROOT / "notebooks" / language).glob("*.ipynb")):
        language = stored.parent.name
        tags = [tag for cell in nbformat.read(stored, 4).cells for tag in cell.metadata.get("tags", [])]
        html = (site / language / f"{stored.stem}.html").read_text(encoding="utf-8")
        for tag in ("solution", "setup"):
            assert tags.count(tag) > 0
            assert html.count(f">{WORDS[language][f'{tag}_show']}<") == tags.count(tag), (stored, tag)
        assert '<details class="admonition hide above-input">' in html and "<details open" not in html
        assert f'href="{stored.name}" download' in html
        offered = nbformat.read(site / language / stored.name, 4)  # with the library inside: it runs alone
        assert sum("ARCHIVE = " in cell.source for cell in offered.cells) == 1


def test_the_page_of_the_library_has_every_module_and_exported_function(site, read):
    files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "helpers").rglob("*.py"))
    modules = {".".join(path.parts).removeprefix("helpers").removesuffix(".__init__") for path in files}
    wanted = {f"helpers{name}" for name in modules - NO_PAGE if not name.startswith(BEHIND)}
    exported = [value for value in vars(helpers).values() if callable(value)]
    for language in LANGUAGES:
        ids = read[site / language / "api.html"].ids
        missing = {name for name in wanted if f"module-{name}" not in ids}
        assert not missing, f"add them to tools/site/api.md and api.vi.md: {missing}"
        assert exported and {f"{value.__module__}.{value.__name__}" for value in exported} <= ids


# ---- in the browser ------------------------------------------------------------------------------


def test_pages_are_whole_quiet_and_ask_no_other_host(visits, address):
    for where, seen in visits.items():
        for fault in ("complaints", "missing", "unseen", "too_wide", "cut", "wrong", "raw", "undrawn"):
            assert not seen[fault], (where, fault, seen[fault])
        assert all(url.startswith((address, "data:")) for url in seen["requests"]), (where, seen["requests"])
        assert seen["lang"] == where[0].split("/")[0] and seen["boxes"] == 1, where
        assert seen["formulas"] > 20 or "02_cosine_and_correlation" not in where[0], where


def test_a_reader_finds_words_with_and_without_marks_and_opens_a_result(page, address):
    for language, query, words, wanted in (
        ("vi", "độ dời trung bình", "độ dời", "06_mean_offset"),
        ("vi", "do doi trung binh", "độ dời", "06_mean_offset"),
        ("en", "jackknife", "jackknife", "06_"),
    ):
        page.goto(f"{address}/{language}/scale.html")
        page.locator("pagefind-modal-trigger button").click()
        page.locator("pagefind-modal input").fill(query)
        link = page.locator(f"pagefind-modal a[href*='{wanted}']").first
        link.wait_for(timeout=20_000)
        found = page.locator("pagefind-modal").inner_text()
        assert words in found.lower(), (query, found)  # other words find pages too, by their first letters
        assert "\u2063" not in found  # words for the index only
        link.click()
        page.wait_for_url(f"**/{language}/{wanted}*")


def test_code_folds_a_figure_grows_and_a_term_leads_to_the_glossary(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/en/01_capture_qkv.html")
    image, code = page.locator("img.wide").first, page.locator("div.cell_input").filter(visible=True)
    before = image.bounding_box()["width"]
    assert before < 390 and code.count() > 3
    image.press("Enter")
    assert image.bounding_box()["width"] > 600
    page.locator(".fold-code").click()
    assert not code.count()
    page.reload()
    assert not code.count()
    page.locator("a.term", has_text="control token").click()
    assert page.locator(":target").inner_text() == "control token"
    page.evaluate("localStorage.clear()")


def test_the_front_page_leads_to_the_language_of_the_browser_or_chosen(browser, address):
    for locale, language, other in (("vi-VN", "vi", "en"), ("fr-FR", "en", "vi")):
        page = browser.new_page(locale=locale)
        page.goto(address)
        page.wait_for_url(f"{address}/{language}/index.html")
        page.locator("a[data-language]").click()
        page.wait_for_url(f"{address}/{other}/index.html")
        page.goto(address)
        page.wait_for_url(f"{address}/{other}/index.html")


def test_a_published_address_is_linked_and_without_one_words_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tools.course, "PYPROJECT", tmp_path / "pyproject.toml")
    github, on_colab = "https://github.com/me/qkv", "https://colab.research.google.com/github/me/qkv/blob/main/"
    known = github, f"{github}/tree/main", f"{github}/blob/main", on_colab, "https://me.github.io/qkv/"
    for address, tree, blob, colab, published in (("", "", "", "", ""), known):
        (tmp_path / "pyproject.toml").write_text(f'[tool.qkv]\nrepository = "{address}"\n', encoding="utf-8")
        values = {"tree": tree, "blob": blob, "colab": colab, "published": published}
        assert builder.where_published() == [f"-A{name}={value}" for name, value in values.items()]
        page = nodes.section("", nodes.paragraph("", "", nodes.reference("", "README", refuri="repo:README.md")))
        app = SimpleNamespace(config=SimpleNamespace(html_context={"tree": tree}))
        extension.places_in_the_repository(app, page)
        assert page.astext() == "README"
        assert [link["refuri"] for link in page.findall(nodes.reference)] == [f"{tree}/README.md"] * bool(tree)


def test_the_builder_does_not_delete_a_folder_that_is_no_site(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match="holds something else"):
        builder.build(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


# ---- the explorer --------------------------------------------------------------------------------


def explorer(browser, address, language="en", width=1280, dark=False, **state):
    """The page of the explorer in a state, drawn, and what went wrong or was asked for so far."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    complaints, requests = watch(page)
    link = "&".join(f"{key}={value}" for key, value in state.items())
    page.goto(f"{address}/{language}/explorer.html#{link}")
    page.wait_for_function("document.querySelector('.explorer')?.explorer")
    return page, complaints, requests


def unpacked(site, word, layer):
    """A file of vectors as `[sample, feature]`, float64."""
    data = (site / "explorer" / "vectors" / f"{word}-{layer:02}.bin").read_bytes()
    mean, step = np.frombuffer(data, "<f4", 2 * 960).reshape(2, -1).astype(float)  # SmolLM2: 576 + 192 + 192 features
    return torch.from_numpy(mean + step * np.frombuffer(data, "<i2", offset=8 * 960).reshape(960, -1).T)


def shown_numbers(page):
    texts = page.eval_on_selector_all(".ex-left dd", "cells => cells.map(cell => cell.textContent)")
    smile, effective, shares = (text.replace("−", "-").replace(",", ".") for text in texts)
    return float(smile), float(effective), [int(part.split()[1].rstrip("%")) for part in shares.split(" · ")]


def test_files_of_the_explorer_hold_the_captured_vectors(site, her_qkv):
    assert len(list((site / "explorer" / "vectors").glob("*.bin"))) == 4 * 30
    for layer in (0, 3, 29):
        captured = her_qkv.joined()[layer].double()
        assert (unpacked(site, "her", layer) - captured).abs().max() < 5e-5 * captured.abs().max()


@pytest.fixture(scope="module")
def open_explorers(browser, address):
    """{language: page}, with what the numbers are computed of."""
    pages = {language: explorer(browser, address, language)[0] for language in LANGUAGES}
    for page in pages.values():
        page.evaluate("document.querySelector('.explorer').dataset.matrix = ''")
    return pages


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_numbers_of_the_explorer_are_those_of_helpers(open_explorers, site, setting):
    page = open_explorers["vi" if len(setting) % 2 else "en"]
    link = "".join(f"&{key}={value}" for key, value in setting.items())
    state, matrix = page.evaluate(
        """link => new Promise(done => { const root = document.querySelector('.explorer');
        const show = () => done([root.explorer.state, [...root.explorer.result.matrix]]);
        root.addEventListener('drawn', show, {once: true}); location.hash = link; })""",
        f"{link}&at={hash(str(setting))}",
    )
    x = unpacked(site, state["word"], state["layer"])[: state["n"]]
    mixed = torch.tensor(matrix, dtype=torch.float64).view(-1, state["n"]).T  # a draw of the page's own
    alike = {
        "none": lambda v: v,
        "within": lambda v: v.sort(dim=0).values,
        "entries": lambda v: v.flatten().sort().values,
        "flip": lambda v: v * v[:, :1].sign(),
    }[state["shuffle"]]
    assert {**state, **setting} == state and torch.allclose(alike(mixed), alike(x), atol=1e-4)
    assert torch.allclose(mixed, x, atol=1e-4) == (state["shuffle"] == "none")
    mean, measure = mixed.mean(dim=0), "correlation" if state["a"] == 1 else "cosine"
    histogram = block_histograms(mixed - state["a"] % 1 * mean, (576, 192, 192))[measure][state["block"]]
    left = (1 - state["a"]) ** 2 * mean.square()
    shares = (left / (left + mixed.var(dim=0, correction=0))).split((576, 192, 192))  # of Q, K, V
    smile, effective, offset = shown_numbers(page)
    assert smile == pytest.approx(float(smile_index(histogram)), abs=6e-4)
    assert effective == pytest.approx(float(effective_n(histogram, measure)), abs=6e-3, rel=6e-4)
    assert offset == pytest.approx(
        [100 * float(shares["QKV".index(part)].mean()) for part in dict.fromkeys(state["block"])], abs=0.51
    )


@pytest.mark.parametrize("language, width, dark", [("vi", 390, False), ("en", 1280, True)])
def test_explorer_works_by_keyboard_quickly_and_from_one_host(browser, address, language, width, dark):
    page, complaints, requests = explorer(browser, address, language, width, dark)
    root = page.locator(".explorer")
    look = partial(root.evaluate, "root => JSON.stringify([root.explorer.state, root.querySelector('.ex-pair').pair])")
    root.locator("input").first.focus()
    done, redraws = {}, []
    for _ in range(90):
        kind = page.locator(":focus").evaluate("e => e.name || e.type || e.className.baseVal || e.tagName")
        before = look()
        page.keyboard.press("ArrowLeft" if kind in ("n", "range") else "Space" if kind == "button" else "ArrowRight")
        page.locator(".explorer:not([aria-busy])").wait_for()
        done[kind] = done.get(kind, False) or look() != before
        redraws.append(root.evaluate("root => root.explorer.took"))
        page.keyboard.press("Tab")
        if not root.evaluate("root => root.contains(document.activeElement)"):
            break
    moved = {kind for kind, changed in done.items() if changed}
    assert {"a", "layer", "block", "word", "n", "shuffle", "range", "ex-handle", "button"} <= moved, done
    assert np.median(redraws) < 60, redraws
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not complaints and all(url.startswith((address, "data:")) for url in requests)
    assert ("dequantised" in root.inner_text()) == (language == "en")


def test_first_view_of_the_front_page_is_light_and_says_what_was_found(browser, address):
    for language, words, width in (("vi", "độ dời", 390), ("en", "offset", 1280)):
        page, sizes = browser.new_page(viewport={"width": width, "height": 844}), []
        page.on("response", lambda answer, sizes=sizes: sizes.append(int(answer.header_value("content-length") or 0)))
        page.goto(f"{address}/{language}/index.html", wait_until="load")
        page.wait_for_function("document.querySelector('.explorer')?.explorer")
        assert words in page.locator("article p").first.inner_text()
        assert page.locator("article p").first.bounding_box()["y"] < 844
        assert sum(sizes) < 600_000, sizes


def test_a_prediction_folds_what_follows_and_comes_back_on_a_card(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/en/04_cosine_smile.html")
    box = page.locator(".prediction").nth(1)
    figure = page.locator(".prediction").nth(1).locator("xpath=following-sibling::*[1]")
    assert not figure.is_visible() and not page.locator(".prediction-card").is_visible()
    box.locator("textarea").fill("it closes")
    box.locator("button").first.click()
    assert figure.is_visible() and "it closes" in page.locator(".prediction-card").inner_text()
    page.reload()
    assert figure.is_visible() and "it closes" in box.inner_text()
    page.goto(f"{address}/en/predictions.html")
    assert page.locator(".write-here").count() > 30
