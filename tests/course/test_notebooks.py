"""The build of the notebooks, and what is stored.  nbval runs and compares the outputs themselves."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from tools import build, course

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted((ROOT / "notebooks").glob("[ve][in]/*.ipynb"))


SMALL = '''# %% [markdown] lang="vi"
r"""
# Một, $x^2$
"""

# %% [markdown] lang="en"
r"""
# One, $x^2$
"""

# %% tags=["setup"]
from helpers import set_language

set_language("vi")

# %%
from helpers import label

print(label("layer"))

# %% tags=["nbval-ignore-output"]
import ipywidgets

ipywidgets.IntSlider()

# %% tags=["solution"]
%matplotlib inline
import matplotlib.pyplot as plt

_ = plt.plot([1, 2])
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty notebooks/ folder with one small source; the build works there."""
    folder = tmp_path / "notebooks"
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "01_small.py").write_text(SMALL, encoding="utf-8")
    monkeypatch.setattr(build, "HERE", folder)
    return folder


def source_of(here, text):
    path = here / "source" / "01_small.py"
    path.write_text(text, encoding="utf-8")
    return path


# ---- splitting -----------------------------------------------------------------------------------


def test_each_language_gets_its_text_and_the_shared_code(here):
    path = course.sources()[0]
    vi, en = (course.assemble(path, language) for language in ("vi", "en"))
    assert vi.cells[1].source == "# Một, $x^2$" and en.cells[1].source == "# One, $x^2$"
    code = [[cell.source for cell in notebook.cells if cell.cell_type == "code"] for notebook in (vi, en)]
    for first, language in zip((code[0][0], code[1][0]), ("vi", "en")):
        assert re.findall(r"^set_language.*$", first, flags=re.MULTILINE) == [f'set_language("{language}")']
    assert code[0][1:] == code[1][1:]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (SMALL.replace('lang="en"', 'lang="vi"'), "two vi texts in a row"),
        (SMALL.replace(' lang="en"', ""), 'needs lang="vi" or lang="en"'),
        (SMALL[SMALL.index('# %% [markdown] lang="en"') :], "the en text before it has no partner"),
        (SMALL + '\n# %% [markdown] lang="vi"\nr"""\nhết\n"""\n', "the last text, vi, has no partner"),
        (SMALL.replace('["setup"]', '["setpu"]'), "unknown tags"),
        (SMALL + "\n# %%\n\n# %%\n1\n", "empty code cell"),
        (SMALL.replace("import set_language", "import label, set_language"), "setup_cell.py takes the place"),
    ],
)
def test_a_source_that_lacks_something_is_refused_and_says_where(here, broken, message):
    with pytest.raises(ValueError, match=message) as error:
        course.read_pairs(source_of(here, broken))
    assert "01_small.py" in str(error.value)


def test_ids_stay_when_nothing_changed_and_only_the_edited_cell_gets_a_new_one(here):
    def ids(text):
        return [cell.id for cell in course.assemble(source_of(here, text), "en").cells]

    before = ids(SMALL)
    assert ids(SMALL) == before and len(set(before)) == len(before)
    edited = ids(SMALL.replace('label("layer")', 'label("head")'))
    assert [a == b for a, b in zip(before, edited)].count(False) == 1
    inserted = ids(SMALL.replace("# %%\nfrom", "# %%\n1 + 1\n\n# %%\nfrom"))
    assert [i for i in inserted if i in before] == before


def test_two_equal_cells_get_different_ids(here):
    path = source_of(here, SMALL + "\n# %%\n1\n\n# %%\n1\n")
    ids = [cell.id for cell in course.assemble(path, "en").cells]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("tag", ["setup", "solution"])
def test_solutions_and_the_first_cell_are_folded(here, tag):
    cell = next(c for c in course.assemble(course.sources()[0], "en").cells if tag in c.metadata.get("tags", []))
    assert cell.metadata["jupyter"]["source_hidden"] and cell.metadata["cellView"] == "form"


# ---- the address of the repository ---------------------------------------------------------------

FORK = "https://github.com/some-one/qkv.course"


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """A function that sets the lines of [tool.qkv]; the build reads them instead of the real ones."""

    def publish(lines):
        (tmp_path / "pyproject.toml").write_text(f"[tool.qkv]\n{lines}\n", encoding="utf-8")

    monkeypatch.setattr(build, "PYPROJECT", tmp_path / "pyproject.toml")
    publish("")
    return publish


def test_address_is_unset_where_nothing_or_nothing_but_quotes_stands(publish):
    assert course.read_address() == ("", "main")
    publish('repository = ""')
    assert course.read_address() == ("", "main")
    course.PYPROJECT.write_text("[project]\n", encoding="utf-8")
    assert course.read_address() == ("", "main")


def test_address_is_read_with_its_branch(publish):
    publish(f'repository = "{FORK}"\nbranch = "2026_fall"')
    assert course.read_address() == (FORK, "2026_fall")


@pytest.mark.parametrize(
    "line",
    [
        'repository = "github.com/some-one/course"',
        'repository = "http://github.com/some-one/course"',
        'repository = "https://github.com/some-one/course/"',
        'repository = "https://github.com/some-one/course.git"',
        'repository = "https://github.com/some-one"',
        'repository = "git@github.com:some-one/course"',
        'repository = "https://github.com/some-one/course\\n"',
        'repository = "https://github.com/some-one/cour\\"se"',
        "repository = false",
        'branch = "feature/x"',
        'branch = "--upload-pack=x"',
        'branch = ""',
        "branch = 3",
    ],
)
def test_address_of_another_form_is_refused_and_the_message_says_what_came_and_what_is_expected(publish, line):
    publish(line)
    with pytest.raises(ValueError, match=r"\[tool.qkv\]: (repository|branch) is .+; expected") as error:
        course.read_address()
    assert repr(tomllib.loads(line).popitem()[1]) in str(error.value)


def test_command_line_reports_a_wrong_address_in_one_line(publish, monkeypatch):
    publish('repository = "somewhere"')
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    with pytest.raises(SystemExit, match="repository is 'somewhere'; expected"):
        build.main()


def test_address_stands_in_the_first_cell_and_changes_no_id(here, publish):
    def first(language):
        return next(cell for cell in course.assemble(course.sources()[0], language).cells if cell.id == "setup")

    without = first("vi").source
    publish(f'repository = "{FORK}"')
    assert f'REPOSITORY, BRANCH = "{FORK}", "main"' in first("en").source
    lines = zip(without.split("\n"), first("vi").source.split("\n"), strict=True)
    assert len([1 for a, b in lines if a != b]) == 1


def test_links_to_colab_are_there_with_an_address_only(here, publish):
    def top(language):
        return course.assemble(course.sources()[0], language).cells[0].source

    assert "colab" not in top("vi").lower()
    publish(f'repository = "{FORK}"')
    for language, words in (("vi", "Mở bài này trong Colab"), ("en", "Open this notebook in Colab")):
        wanted = f"https://colab.research.google.com/github/some-one/qkv.course/blob/main/notebooks/{language}/01_small.ipynb"
        assert top(language).endswith(f"\n\n[▶ {words}]({wanted})")


MARKED = "# Title\n\n<!-- badges: made -->\n<!-- /badges -->\n\nText.\n"


def test_badges_of_the_readmes_come_and_go_with_the_address(here, publish):
    readmes = {language: here.parent / name for language, name in (("en", "README.md"), ("vi", "README.vi.md"))}
    for path in readmes.values():
        path.write_text(MARKED, encoding="utf-8")
    build.write_badges()
    assert {path.read_text(encoding="utf-8") for path in readmes.values()} == {MARKED}
    publish(f'repository = "{FORK}"')
    for _ in range(2):
        build.write_badges()
    for language, path in readmes.items():
        text = path.read_text(encoding="utf-8")
        notebook = f"notebooks/{language}/01_small.ipynb"
        line = next(line for line in text.splitlines() if line.startswith("[![")).split(") [!")
        assert len(line) == 3 and text.startswith("# Title\n\n<!-- badges: made -->\n\n[![")
        assert f"/some-one/qkv.course/blob/main/{notebook}" in line[0]
        assert f"https://mybinder.org/v2/gh/some-one/qkv.course/main?urlpath=lab/tree/{notebook}" in line[1]
        assert f"{FORK}/actions/workflows/ci.yml/badge.svg?branch=main" in line[2]
    publish("")
    build.write_badges()
    assert {path.read_text(encoding="utf-8") for path in readmes.values()} == {MARKED}


def test_readme_without_its_marks_is_refused(here, publish):
    (here.parent / "README.md").write_text("# Title\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md: expected one line <!-- badges -->"):
        build.write_badges()


# ---- executing and checking ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built notebooks/ folder, and the bytes of the first build before the second."""
    folder = tmp_path_factory.mktemp("built") / "notebooks"
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "01_small.py").write_text(SMALL, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "HERE", folder)
        patch.setenv("QKV_MODEL", "smollm2")
        build.build("")
        first = {path: path.read_bytes() for path in folder.glob("??/*.ipynb")}
        build.build("")
    return folder, first


@pytest.fixture
def small(built, tmp_path, monkeypatch):
    """A copy of the built folder that a test may damage: (vi notebook path, function that lists the problems)."""
    folder = Path(shutil.copytree(built[0], tmp_path / "notebooks"))
    monkeypatch.setattr(build, "HERE", folder)
    return folder / "vi" / "01_small.ipynb", build.problems


def test_building_twice_gives_the_same_bytes(built):
    folder, first = built
    assert len(first) == 2
    assert {path: path.read_bytes() for path in folder.glob("??/*.ipynb")} == first


def test_what_is_stored_speaks_its_language_and_holds_no_widget_id(built):
    texts = {}
    for language in ("vi", "en"):
        notebook = nbformat.read(built[0] / language / "01_small.ipynb", as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        texts[language] = code[1].outputs[0].text
        assert code[2].outputs == [] and "widgets" not in notebook.metadata
        assert "image/png" in code[3].outputs[0].data
    assert texts == {"vi": "tầng\n", "en": "layer\n"}


def test_a_fresh_build_has_no_problems(small):
    assert small[1]() == []


def damage(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def code_cell(notebook, number):
    return [cell for cell in notebook.cells if cell.cell_type == "code"][number]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda nb: code_cell(nb, 1).update(execution_count=None), "one clean run"),
        (lambda nb: code_cell(nb, 1).update(execution_count=7), "one clean run"),
        (lambda nb: code_cell(nb, 1).update(source="print(2)"), "differs from its source"),
        (lambda nb: nb.cells[1].update(source="# Khác"), "differs from its source"),
        (lambda nb: nb.cells[1].update(id="abc"), "differs from its source"),
        (lambda nb: code_cell(nb, 3).metadata.update(tags=[]), "differs from its source"),
        (
            lambda nb: code_cell(nb, 1).outputs.append(
                nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
            ),
            "error output",
        ),
        (
            lambda nb: code_cell(nb, 1).outputs.append(nbformat.v4.new_output("stream", name="stderr", text="warning")),
            "output on stderr",
        ),
        (lambda nb: nb.metadata.update(padding="x" * 800_001), "more than 800"),
    ],
)
def test_the_check_finds_a_damaged_notebook(small, change, message):
    path, problems = small
    damage(path, change)
    assert len(problems()) == 1 and message in problems()[0] and problems()[0].startswith("vi/01_small")


def test_the_check_finds_missing_and_stray_notebooks(small):
    path, problems = small
    path.rename(path.with_name("02_stray.ipynb"))
    assert sorted(problems()) == ["vi/01_small: is not built", "vi/02_stray.ipynb: has no source"]


def test_refresh_brings_a_new_address_and_new_texts_without_a_run_as_a_build_would(small, publish, monkeypatch):
    path, problems = small
    source = course.NOTEBOOKS / "source" / "01_small.py"
    source.write_text(SMALL.replace("# Một,", "# Số một,"), encoding="utf-8")
    (course.NOTEBOOKS.parent / "README.md").write_text(MARKED, encoding="utf-8")
    publish(f'repository = "{FORK}"')
    assert [text.split(":")[0] for text in problems()] == ["vi/01_small", "en/01_small", "README.md"]
    with monkeypatch.context() as patch:
        patch.setattr(build, "execute", lambda *_: pytest.fail("it ran"))
        assert build.refresh("") == []
    assert problems() == []
    refreshed = path.read_bytes()
    assert FORK.encode() in refreshed and "# Số một,".encode() in refreshed
    build.build("")
    assert path.read_bytes() == refreshed


def test_refresh_leaves_a_notebook_whose_code_changed_and_names_it(small, publish):
    path, _ = small
    damage(path, lambda nb: code_cell(nb, 1).update(source="print(2)"))
    before = path.read_bytes()
    assert build.refresh("") == ["vi/01_small"]
    assert path.read_bytes() == before


def test_running_writes_copies_and_names_what_failed(small, tmp_path):
    path, _ = small
    damage(path, lambda nb: code_cell(nb, 1).update(source="1 / 0"))
    before = path.read_bytes()
    assert build.run(tmp_path / "executed") == ["vi/01_small"]
    assert path.read_bytes() == before
    assert {p.parent.name for p in (tmp_path / "executed").glob("*/*.ipynb")} == {"vi", "en"}


# ---- the notebooks of the module -----------------------------------------------------------------


def test_every_stored_notebook_is_what_its_source_gives():
    assert course.sources() and build.problems() == []


def test_the_command_line_check_passes():
    command = [sys.executable, str(ROOT / "notebooks" / "build.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", [path.name for path in STORED if path.parent.name == "vi"])
def test_both_languages_have_the_same_code_but_for_the_language_line(name):
    vi, en = (nbformat.read(ROOT / "notebooks" / language / name, as_version=4) for language in ("vi", "en"))
    code = [[cell.source for cell in notebook.cells if cell.cell_type == "code"] for notebook in (vi, en)]
    lines = [
        (a, b) for x, y in zip(*code, strict=True) for a, b in zip(x.split("\n"), y.split("\n"), strict=True) if a != b
    ]
    assert lines == [('set_language("vi")', 'set_language("en")')]


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_stored_notebook_holds_every_figure_and_nothing_that_changes(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"object at 0x|ipykernel_\d|model_id", text)
    assert str(Path.home()) + "/" not in text and str(ROOT) not in text
    for cell in notebook.cells:
        if (
            cell.cell_type == "code"
            and cell.source.startswith(("figure = plot", "layers = "))
            or "\nfigure = plot" in cell.source
        ):
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_exercise_has_a_solution_that_passes_its_check(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    pairs = [
        (cell, following)
        for cell, following in itertools.pairwise(code)
        if "exercise" in cell.metadata.get("tags", []) or "solution" in following.metadata.get("tags", [])
    ]
    assert len(pairs) >= 2
    for exercise, solution in pairs:
        number = re.search(r'check\("([\d.]+)"', exercise.source).group(1)
        assert "exercise" in exercise.metadata.tags and "solution" in solution.metadata.tags
        assert exercise.outputs[0].text.startswith(f"○ {number} ")  # open, with a hint, and no traceback
        assert solution.outputs[0].text.startswith(f"✓ {number} · ")


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_links_between_notebooks_lead_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    for target in re.findall(r"\]\((?!https:)([^)\s]+\.ipynb)\)", "".join(cell.source for cell in notebook.cells)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("readme", ["README.md", "README.vi.md"])
def test_links_of_the_readme_lead_somewhere(readme):
    targets = re.findall(r"\]\((?!http)([^)\s#]+)\)", (ROOT / readme).read_text(encoding="utf-8"))
    assert len(targets) > 8
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_a_notebook_beside_a_clone_finds_helpers_there_and_says_so_where_there_is_none(tmp_path):
    setup = course.setup_cell("vi", course.Address("", "main"))  # a fork has an address, and would clone it
    script = tmp_path / "setup.py"
    script.write_text(setup + "\nimport helpers\nprint(helpers.__file__)", encoding="utf-8")
    nothing_installed = [sys.executable, "-I", "-S", "-X", "utf8", str(script)]
    alone = subprocess.run(nothing_installed, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert "FileNotFoundError" in alone.stderr and "README.md" in alone.stderr
    shutil.copytree(ROOT / "helpers", tmp_path / "module" / "helpers")
    python = [sys.executable, "-P", str(script)]
    beside = subprocess.run(python, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert beside.stdout.splitlines()[-1] == str(tmp_path / "module" / "helpers" / "__init__.py")
