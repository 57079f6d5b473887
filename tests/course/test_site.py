"""The site: built once, served as plain files, every page opened in Chromium at the width of a phone and of a desk."""

import functools
import http.server
import os
import re
import shutil
import sys
import threading
import unicodedata
from collections import namedtuple
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from docutils import nodes
from docutils.core import publish_string

import helpers

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("vi", "en")
WIDTHS = {390: 844, 1280: 900}
CPU_SECONDS, BYTES = 180, 40_000_000
LEFT_OUT = {"__init__", "kernels_cpu", "kernels_cuda"}  # what nobody imports by name
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
FIND = """async ([bundle, query]) => {
  const pagefind = await import(bundle);
  const found = await pagefind.search(query);
  return Promise.all(found.results.slice(0, 10).map(async result => (await result.data()).excerpt));
}"""


from tools.site import build as builder
from tools.site import extension

Site = namedtuple("Site", "folder cpu_seconds")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    before = cpu_seconds()
    builder.build(folder)
    return Site(folder, cpu_seconds() - before)


def cpu_seconds():
    """Of this process and of those that it has waited for; unlike the clock, no matter what else is running."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@pytest.fixture(scope="module")
def address(site):
    """Address of a plain file server on the built site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser, request):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **getattr(request, "param", {}))
    yield context.new_page()
    context.close()


def watch(page):
    """Two lists that fill while the page is used: what went wrong, and the addresses asked for."""
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    # what was still on its way when the next page was opened is no failure; what is missing answers 404
    page.on(
        "requestfailed", lambda request: complaints.append(request.url) if "ABORTED" not in request.failure else None
    )
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    return complaints, requests


@pytest.fixture(scope="module")
def visits(site, address, browser):
    """{(path, width): what the browser saw}: every page at every width, opened once."""
    seen = {}
    for width, height in WIDTHS.items():
        context = browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        complaints, requests = watch(page)
        for path in html_files(site):
            page.goto(f"{address}/{path}", wait_until="load")
            seen[path, width] = page.evaluate(LOOK) | {"complaints": [*complaints], "requests": [*requests]}
            complaints.clear()
            requests.clear()
        context.close()
    return seen


def html_files(site):
    """Paths of all pages but the front page, which leads away at once."""
    return sorted(path.relative_to(site.folder).as_posix() for path in site.folder.glob("*/*.html"))


def of(visits, key):
    return {where: seen[key] for where, seen in visits.items() if seen[key]}


class Reader(HTMLParser):
    """What a page links to, what it loads, and the ids that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.switch = [], [], {""}, None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id", ""))
        for name in ("href", "src"):
            if attributes.get(name):
                (self.links if tag == "a" else self.loads).append(attributes[name])
        if "data-language" in attributes:
            self.switch = attributes["data-language"], attributes["href"]


@pytest.fixture(scope="module")
def read(site):
    return {path: Reader(path) for path in site.folder.rglob("*.html")}


# ---- the built files -----------------------------------------------------------------------------


def test_it_is_built_in_time_and_is_small(site):
    assert site.cpu_seconds < CPU_SECONDS
    assert sum(path.stat().st_size for path in site.folder.rglob("*") if path.is_file()) < BYTES


def test_every_notebook_and_every_page_of_docs_is_there_in_both_languages(site):
    names = {path.stem for path in (ROOT / "docs").glob("*.md") if not path.name.endswith(".vi.md")} | {"api"}
    names |= {path.stem for path in (ROOT / "notebooks" / "source").glob("[0-9]*.py")}
    for language in LANGUAGES:
        there = {path.stem for path in (site.folder / language).glob("*.html")}
        assert names <= there and "search" not in there
        navigation = (site.folder / language / "index.html").read_text(encoding="utf-8")
        assert all(f'href="{name}.html"' in navigation for name in names - {"index"})


def test_no_link_inside_the_site_is_broken_and_no_anchor_is_missing(read):
    broken = []
    for path, page in read.items():
        for target in page.links + page.loads:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.is_file() or (file in read and unquote(parts.fragment) not in read[file].ids):
                broken.append((path.name, target))
    assert len(read) > 25 and not broken


def test_no_page_loads_anything_from_elsewhere(read):
    outside = {(path.name, load) for path, page in read.items() for load in page.loads if urlsplit(load).netloc}
    assert not outside


def test_the_language_switch_leads_to_the_same_page_and_back(site, read):
    for name in html_files(site):
        path = site.folder / name
        language, target = read[path].switch
        other = (path.parent / target).resolve()
        assert language == other.parent.name != path.parent.name and other.name == path.name
        assert (other.parent / read[other].switch[1]).resolve() == path


@pytest.mark.parametrize("language", LANGUAGES)
def test_notebooks_fold_their_solutions_and_setup_and_can_be_downloaded(site, language):
    for stored in sorted((ROOT / "notebooks" / language).glob("*.ipynb")):
        tags = [tag for cell in nbformat.read(stored, 4).cells for tag in cell.metadata.get("tags", [])]
        html = (site.folder / language / f"{stored.stem}.html").read_text(encoding="utf-8")
        for tag in ("solution", "setup"):
            assert tags.count(tag) > 0
            assert html.count(f">{builder.FOLDED[tag][language][0]}<") == tags.count(tag), (stored.name, tag)
        assert '<details class="admonition hide above-input">' in html and "<details open" not in html
        assert f'href="{stored.name}" download' in html
        assert (site.folder / language / stored.name).read_bytes() == stored.read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_of_the_library_has_every_module_and_every_exported_function(site, read, language):
    ids = read[site.folder / language / "api.html"].ids
    modules = {path.stem for path in (ROOT / "helpers").glob("*.py")} - LEFT_OUT
    missing = {name for name in modules if f"module-helpers.{name}" not in ids}
    assert not missing, f"add them to tools/site/api.md and api.vi.md: {missing}"
    exported = [value for value in vars(helpers).values() if callable(value)]
    assert exported and {f"{value.__module__}.{value.__name__}" for value in exported} <= ids


# ---- in the browser ------------------------------------------------------------------------------


def test_no_page_complains_or_asks_another_host(visits, address):
    assert not of(visits, "complaints")
    assert not {url for seen in visits.values() for url in seen["requests"] if not url.startswith((address, "data:"))}


def test_no_image_is_missing(visits):
    assert not of(visits, "missing")


def test_no_page_scrolls_sideways_and_what_is_too_wide_scrolls_by_itself(visits):
    assert not of(visits, "too_wide") and not of(visits, "cut")


def test_pages_say_their_language_and_have_one_search_box(visits):
    assert all(seen["lang"] == path.split("/")[0] and seen["boxes"] == 1 for (path, _), seen in visits.items())


def test_mathematics_is_drawn(visits):
    assert not of(visits, "wrong") and not of(visits, "raw") and not of(visits, "undrawn")
    assert all(visits[f"{language}/02_cosine_and_correlation.html", 390]["formulas"] > 20 for language in LANGUAGES)


@pytest.mark.parametrize("words", ["chú ý", "trung bình", "hiệu dụng", "độ dời", "điểm", "đối chứng"])
def test_search_finds_vietnamese_words_with_and_without_their_marks(page, address, words):
    page.goto(f"{address}/vi/index.html")
    bare = unicodedata.normalize("NFD", words)
    bare = "".join(letter for letter in bare if not unicodedata.combining(letter)).replace("đ", "d")
    assert bare != words
    for query in (words, bare):
        excerpts = page.evaluate(FIND, [f"{address}/vi/pagefind/pagefind.js", query])
        # "qwertz" finds pages too, by its first letter: what counts is that the words stand in the excerpt
        assert any(words in re.sub("<.*?>", "", excerpt).lower() for excerpt in excerpts), (query, excerpts)


@pytest.mark.parametrize(
    ("language", "query", "wanted"),
    [
        ("vi", "do doi trung binh", "06_mean_offset"),
        ("vi", "khoảng tin cậy", "08_per_head"),
        ("en", "jackknife", "06_"),
    ],
)
def test_a_reader_types_into_the_search_box_and_opens_a_result(page, address, language, query, wanted):
    page.goto(f"{address}/{language}/scale.html")
    page.locator("pagefind-modal-trigger button").click()
    box = page.locator("pagefind-modal input")
    box.fill(unicodedata.normalize("NFD", query))
    assert box.input_value() == query
    link = page.locator(f"pagefind-modal a[href*='{wanted}']").first
    link.wait_for(timeout=20_000)
    assert "\u2063" not in page.locator("pagefind-modal").inner_html()  # words for the index only
    link.click()
    page.wait_for_url(f"**/{language}/{wanted}*")
    assert page.locator("html").get_attribute("lang") == language


@pytest.mark.parametrize(
    ("page", "language"),
    [({"locale": "vi-VN"}, "vi"), ({"locale": "en-GB"}, "en"), ({"locale": "fr-FR"}, "en")],
    indirect=["page"],
)
def test_the_front_page_leads_to_the_language_of_the_browser_or_the_one_chosen(page, address, language):
    page.goto(address)
    page.wait_for_url(f"{address}/{language}/index.html")
    other = "en" if language == "vi" else "vi"
    page.locator("a[data-language]").click()
    page.wait_for_url(f"{address}/{other}/index.html")
    page.goto(address)
    page.wait_for_url(f"{address}/{other}/index.html")


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_the_front_page_links_to_both_languages_without_javascript(page, address):
    page.goto(address)
    assert [link.get_attribute("href") for link in page.locator("a").all()] == ["vi/index.html", "en/index.html"]


# ---- how pages are assembled ---------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small repository with a notebook, a page and a file; returns its folder."""
    for name in ("docs/a.md", "docs/a.vi.md", "docs/index.md", "docs/index.vi.md", "README.md", "docs/x/config.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n", encoding="utf-8")
    for language in LANGUAGES:
        (tmp_path / "notebooks" / language).mkdir(parents=True)
        (tmp_path / "notebooks" / language / "01_n.ipynb").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    monkeypatch.setattr(builder, "HERE", tmp_path / "docs" / "site")
    return tmp_path


def test_links_of_the_repository_become_links_of_the_site(repository, tmp_path):
    pages = builder.find_pages()

    def turned(text):
        return builder.relink(text, repository / "docs" / "a.md", "en", pages, tmp_path / "tree")

    assert turned("[n](../notebooks/en/01_n.ipynb)") == "[n](01_n.ipynb)"
    assert turned("[i](index.md#start)") == "[i](index.md#start)"
    assert turned("[v](a.vi.md) [n](../notebooks/vi/01_n.ipynb)") == "[v](site:vi/a.html) [n](site:vi/01_n.html)"
    assert turned("[r](../README.md#colab) [d](x)") == "[r](repo:README.md) [d](repo:docs/x)"
    assert turned("[`c`](x/config.py)") == "[`c`](files/docs/x/config.py)"
    assert (tmp_path / "tree" / "files" / "docs" / "x" / "config.py").is_file()
    for same in ("[w](https://x.org/a.md)", "[s](#here)", "[gone](gone.md)", "`f[i](a.md)`", "```\n[i](a.vi.md)\n```"):
        assert turned(same) == same


def test_an_unknown_page_stands_last_and_a_page_without_a_partner_is_refused(repository):
    pages = builder.find_pages()
    assert builder.contents("en", pages).split()[-2:] == ["a", "```"]
    assert ":caption: Tra cứu" in builder.contents("vi", pages)
    (repository / "docs" / "a.vi.md").unlink()
    with pytest.raises(builder.SiteError, match=r"one language only: a\. A page needs docs/NAME\.md"):
        builder.find_pages()


def test_the_published_address_reaches_every_page_and_a_wrong_one_is_named(repository):
    shutil.copy(ROOT / "notebooks" / "build.py", repository / "notebooks")

    def options(address):
        (repository / "pyproject.toml").write_text(f'[tool.qkv]\nrepository = "{address}"\n', encoding="utf-8")
        return builder.where_published()

    on_github, on_colab = "https://github.com/me/qkv", "https://colab.research.google.com/github/me/qkv/blob/main/"
    assert options("") == ["-Atree=", "-Ablob=", "-Acolab="]
    assert options(on_github) == [
        f"-Atree={on_github}/tree/main",
        f"-Ablob={on_github}/blob/main",
        f"-Acolab={on_colab}",
    ]
    with pytest.raises(builder.SiteError, match=r"repository is 'me/qkv'; expected"):
        options("me/qkv")


def test_the_builder_does_not_delete_a_folder_that_is_no_site(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(builder.SiteError, match="holds something else"):
        builder.build(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(("tree", "kept"), [("", 0), ("https://github.com/a/b/tree/main", 1)])
def test_places_in_the_repository_are_linked_where_its_address_is_known(tree, kept):
    document = nodes.section("", nodes.paragraph("", "", nodes.reference("", "README", refuri="repo:README.md")))
    config = type("Config", (), {"html_context": {"tree": tree}})
    extension.places_in_the_repository(type("App", (), {"config": config}), document)
    links = list(document.findall(nodes.reference))
    assert document.astext() == "README" and len(links) == kept
    assert all(link["refuri"] == f"{tree}/README.md" for link in links)


def test_docstrings_in_plain_text_become_restructured_text_without_a_warning():
    lines = """Counts |s| > 0.9 of `[layer, token]`s with *args and a trailing_ name.

    x = f(1)
    y = x * 2
Then, as `a|b` says:
- one
  goes on;
- two
after the list.

>>> 2 * 3
6
""".splitlines()
    extension.plain_docstring(None, "function", "f", None, None, lines)
    settings = {"report_level": 1, "halt_level": 1, "warning_stream": sys.stderr}
    html = publish_string("\n".join(lines), writer="html5", settings_overrides=settings).decode()
    assert "Counts |s| &gt; 0.9" in html and "*args" in html and "trailing_ name" in html
    assert html.count("<li>") == 2 and "after the list" in html.split("</ul>")[1]
    assert "x = f(1)\ny = x * 2" in html and "a|b" in html
