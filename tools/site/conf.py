"""Sphinx configuration of both languages; `build.py` assembles the pages and passes `-t vi` or `-t en`."""

from importlib.util import find_spec
from pathlib import Path

from tools.site import WORDS

ROOT = Path(__file__).resolve().parents[2]
vi = tags.has("vi")  # noqa: F821 - Sphinx puts `tags` there
language = "vi" if vi else "en"
project = "Độ tương đồng trong Q, K, V" if vi else "Similarity in Q, K and V"
html_title = project

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tools.site.extension"]
exclude_patterns = ["files"]
locale_dirs = ["locale"]  # the theme's own words in Vietnamese, beside the assembled pages
default_role = "code"
highlight_language = "none"

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # the stored notebooks hold no widget, so there is nothing to fetch
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# Both schemes are written by build.py: a page of the other language, and a place in the repository that is no page.
myst_url_schemes = {"http": None, "https": None, "mailto": None, "site": "../{{path}}", "repo": None}

mathjax_path = "tex-svg.js"  # one file with all its glyphs
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"mtextInheritFont": True}}

autodoc_default_options = {"member-order": "bysource", "exclude-members": "set"}  # matplotlib writes it for figures
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = [
    "static",
    str(Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"),
]
html_favicon = "static/smile.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js", "predict.js"]
templates_path = ["templates"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
html_domain_indices = False

html_context = {  # and `tree`, `blob` and `colab` from build.py
    "notebooks": {path.stem for path in (ROOT / "notebooks" / language).glob("*.ipynb")},
    "words": WORDS[language],
}
