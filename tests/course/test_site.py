"""The site: built once, served as plain files, every page opened in Chromium at the width of a phone and of a desk."""

from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from docutils import nodes

import helpers
import tools.course
from tests.support.web import served, watch
from tools.course import LANGUAGES, ROOT
from tools.site import build as builder
from tools.site import extension

WIDE = ("index", "02_cosine_and_correlation", "performance", "api")  # looked at on a desk as well, half in a language
NO_PAGE = {"", ".teaching", ".teaching.plots", ".experiments", ".survey"}  # rooms, which hold nothing of their own
BEHIND = (".kernels.", ".wheels.", ".teaching.checks.", ".survey.__main__")  # what nobody imports by name
LOOK = """async () => {
  if (window.MathJax?.startup) await window.MathJax.startup.promise;
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  const words = document.querySelector('article').cloneNode(true);
  words.querySelectorAll('pre, code, mjx-container').forEach(node => node.remove());
  const root = document.documentElement;
  const scrolls = node => node.tagName !== 'ARTICLE' &&
    (/auto|scroll/.test(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  return {
    lang: root.lang,
    missing: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
    too_wide: root.scrollWidth - root.clientWidth,
    cut: [...document.querySelectorAll('article *')].filter(node =>
      node.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(node)).map(node => node.outerHTML.slice(0, 200)),
    formulas: document.querySelectorAll('.math').length,
    undrawn: [...document.querySelectorAll('.math')].filter(node => !node.querySelector('mjx-container svg')).length,
    wrong: document.querySelectorAll('[data-mml-node=merror], mjx-merror').length,
    raw: words.textContent.match(/\\$[^$]*\\$|\\\\\\(|\\\\\\[|\\\\frac/g) ?? [],
    boxes: document.querySelectorAll('pagefind-modal-trigger, .sidebar-search, form[role=search]').length,
  };
}"""


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
            assert html.count(f">{builder.FOLDED[tag][language][0]}<") == tags.count(tag), (stored, tag)
        assert '<details class="admonition hide above-input">' in html and "<details open" not in html
        assert f'href="{stored.name}" download' in html
        assert (site / language / stored.name).read_bytes() == stored.read_bytes()


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
        for fault in ("complaints", "missing", "too_wide", "cut", "wrong", "raw", "undrawn"):
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
    known = github, f"{github}/tree/main", f"{github}/blob/main", on_colab
    for address, tree, blob, colab in (("", "", "", ""), known):
        (tmp_path / "pyproject.toml").write_text(f'[tool.qkv]\nrepository = "{address}"\n', encoding="utf-8")
        assert builder.where_published() == [f"-Atree={tree}", f"-Ablob={blob}", f"-Acolab={colab}"]
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
