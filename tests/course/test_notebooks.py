"""The build of the notebooks, and what is stored.  nbval runs and compares the outputs themselves."""

import itertools
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from tools import build, course, execute

FORK = "https://github.com/some-one/qkv.course"
MARKED = "# Title\n\n<!-- badges: made -->\n<!-- /badges -->\n\nText.\n"
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
from helpers import say

print(say("tầng", "layer"))

# %% tags=["nbval-ignore-output"]
import ipywidgets

ipywidgets.IntSlider()

# %% tags=["solution"]
%matplotlib inline
import matplotlib.pyplot as plt

_ = plt.plot([1, 2])
'''
# A `helpers` that the first cell finds before the real one, so that no kernel here imports torch.
HELPERS = """
spoken = []
set_language = spoken.append


def environment():
    return "here"


def say(vi, en):
    return {"vi": vi, "en": en}[spoken[-1]]
"""


def module_in(root, monkeypatch):
    """Let the tools work in `root`, which gets one small source and READMEs; returns the path of the source."""
    monkeypatch.setattr(course, "ROOT", root)
    monkeypatch.setattr(course, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(course, "PYPROJECT", root / "pyproject.toml")
    path = root / "notebooks" / "source" / "01_small.py"
    if not path.exists():
        files = {path: SMALL, root / "helpers" / "__init__.py": HELPERS, root / "helpers" / "capture.py": ""}
        for target, text in (files | {root / "README.md": MARKED, root / "README.vi.md": MARKED}).items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        publish("")
    return path


def publish(lines):
    """Set the lines of [tool.qkv] in the module at `course.ROOT`."""
    course.PYPROJECT.write_text(f"[tool.qkv]\n{lines}\n", encoding="utf-8")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The one source of a small module in which the tools work."""
    return module_in(tmp_path, monkeypatch)


def assembled(language="en"):
    return course.assemble(course.sources()[0], language)


def test_each_language_gets_its_text_and_the_shared_code(source):
    vi, en = assembled("vi"), assembled("en")
    assert vi.cells[1].source == "# Một, $x^2$" and en.cells[1].source == "# One, $x^2$"
    code = [[cell.source for cell in execute.code_cells(notebook)] for notebook in (vi, en)]
    for first, language in zip((code[0][0], code[1][0]), ("vi", "en"), strict=True):
        assert re.findall(r"^set_language.*$", first, flags=re.MULTILINE) == [f'set_language("{language}")']
    assert code[0][1:] == code[1][1:]
    for tag in ("setup", "solution"):  # folded, in JupyterLab and in Colab
        (cell,) = [cell for cell in vi.cells if tag in cell.metadata.get("tags", [])]
        assert cell.metadata["jupyter"]["source_hidden"] and cell.metadata["cellView"] == "form"


def test_source_that_lacks_something_is_refused_with_the_place(source):
    pair = r'cell 1 .*: expected a text with lang="vi" and one with lang="en", got '
    for broken, message in (
        (SMALL.replace('lang="en"', 'lang="vi"'), pair + r"\['vi'\]"),
        (SMALL + '\n# %% [markdown] lang="vi"\nr"""\nhết\n"""\n', r"cell 7 \('hết'\): expected .* got \['vi'\]"),
        (SMALL.replace('["setup"]', '["setpu"]'), r"unknown tags \['setpu'\]"),
        (SMALL + "\n# %%\n\n# %%\n1\n", "empty code cell"),
        (SMALL.replace("import set_language", "import label, set_language"), "setup_cell.py takes the place"),
    ):
        source.write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"01_small\.py, .*{message}"):
            course.read_pairs(source)


def test_ids_of_cells_depend_on_their_content_alone(source):
    before = [cell.id for cell in assembled().cells]
    source.write_text(SMALL.replace("# %%\nfrom", "# %%\n1\n\n# %%\n1\n\n# %%\nfrom"), encoding="utf-8")
    after = [cell.id for cell in assembled().cells]
    assert after[:3] + after[5:] == before and len(set(after)) == len(after)  # also of two equal cells


def test_address_is_read_with_its_branch_or_refused_in_one_line(source, monkeypatch):
    for lines in ("", 'repository = ""'):
        publish(lines)
        assert course.read_address() == ("", "main")
    publish(f'repository = "{FORK}"\nbranch = "2026_fall"')
    assert course.read_address() == (FORK, "2026_fall")
    at = "https://github.com/some-one"
    wrong = ["github.com/a/b", f"http{at[5:]}/b", f"{at}/b/", f"{at}/b.git", at, f"{at}/b\\n", f'{at}/b\\"', False]
    lines = [f'repository = "{value}"' if value else "repository = false" for value in wrong]
    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    for line in [*lines, 'branch = "feature/x"', 'branch = "--upload-pack=x"', 'branch = ""', "branch = 3"]:
        publish(line)
        with pytest.raises(SystemExit, match=r"^pyproject.toml, \[tool.qkv\]: (repository|branch) is .+; expected"):
            build.main()


def test_address_comes_and_goes_in_first_cells_links_and_badges(source):
    without = {language: assembled(language) for language in course.LANGUAGES}
    publish(f'repository = "{FORK}"')
    for _ in range(2):
        build.write_badges()
    at = "blob/main/notebooks"
    words = {"vi": "Mở bài này trong Colab", "en": "Open this notebook in Colab"}
    for language, readme in (("vi", course.ROOT / "README.vi.md"), ("en", course.ROOT / "README.md")):
        before, after = without[language].cells, assembled(language).cells
        assert "colab" not in before[0].source.lower()
        link = f"https://colab.research.google.com/github/some-one/qkv.course/{at}/{language}/01_small.ipynb"
        assert after[0].source.endswith(f"\n\n[▶ {words[language]}]({link})")
        lines = zip(before[2].source.split("\n"), after[2].source.split("\n"), strict=True)
        ((old, new),) = [pair for pair in lines if pair[0] != pair[1]]
        assert 'REPOSITORY, BRANCH = "", "main"' in old and f'REPOSITORY, BRANCH = "{FORK}", "main"' in new
        assert [cell.id for cell in before] == [cell.id for cell in after]

        text = readme.read_text(encoding="utf-8")
        colab, binder, tests = next(line for line in text.splitlines() if line.startswith("[![")).split(") [!")
        assert text.startswith("# Title\n\n<!-- badges: made -->\n\n[![") and link in colab
        path = f"main?urlpath=lab/tree/notebooks/{language}/01_small.ipynb"
        assert f"https://mybinder.org/v2/gh/some-one/qkv.course/{path}" in binder
        assert f"{FORK}/actions/workflows/ci.yml/badge.svg?branch=main" in tests
    publish("")
    build.write_badges()
    assert [(course.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.vi.md")] == [MARKED] * 2
    readme.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md: expected one line <!-- badges -->"):
        build.write_badges()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small module whose two notebooks were built once."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        module_in(root, patch)
        patch.setenv("QKV_MODEL", "smollm2")
        assert build.build("") == []
    return root


@pytest.fixture
def small(built, tmp_path, monkeypatch):
    """The path of the Vietnamese notebook in a copy of the built module, which a test may damage."""
    root = Path(shutil.copytree(built, tmp_path / "module"))
    module_in(root, monkeypatch)
    return root / "notebooks" / "vi" / "01_small.ipynb"


def test_built_notebook_speaks_its_language_and_its_seconds_are_kept(small):
    texts = {}
    for language in ("vi", "en"):
        notebook = nbformat.read(course.NOTEBOOKS / language / "01_small.ipynb", as_version=4)
        nbformat.validate(notebook)
        code = execute.code_cells(notebook)
        texts[language] = code[1].outputs[0].text
        assert code[2].outputs == [] and "widgets" not in notebook.metadata  # a stored widget is an id and no more
        assert "image/png" in code[3].outputs[0].data
    assert texts == {"vi": "tầng\n", "en": "layer\n"}
    times = build.read_times()
    assert set(times) == {"01_small"} and all(1 <= times["01_small"][language] < 120 for language in ("vi", "en"))


def damage(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(execute.code_cells(notebook), notebook)
    nbformat.write(notebook, path)


def test_check_finds_a_damaged_a_missing_and_a_stray_notebook(small, monkeypatch, capsys):
    assert build.problems() == []
    whole, output = small.read_bytes(), nbformat.v4.new_output
    for message, change in (
        ("one clean run", lambda code, nb: code[1].update(execution_count=7)),
        ("differs from its source", lambda code, nb: code[1].update(source="print(2)")),
        ("differs from its source", lambda code, nb: nb.cells[1].update(id="abc")),
        ("differs from its source", lambda code, nb: code[3].metadata.update(tags=[])),
        ("error output", lambda code, nb: code[1].outputs.append(output("error", ename="E"))),
        ("output on stderr", lambda code, nb: code[1].outputs.append(output("stream", name="stderr"))),
        ("more than 800", lambda code, nb: nb.metadata.update(padding="x" * 800_001)),
    ):
        damage(small, change)
        (line,) = build.problems()
        assert line.startswith("vi/01_small: ") and message in line, (message, line)
        small.write_bytes(whole)
    small.rename(small.with_name("02_stray.ipynb"))
    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    with pytest.raises(SystemExit) as stopped:
        build.main()
    assert stopped.value.code and capsys.readouterr().out.splitlines() == [
        "vi/01_small: is not built",
        "vi/02_stray.ipynb: has no source",
    ]


def test_refresh_takes_texts_and_address_from_the_sources_and_runs_nothing(small, monkeypatch):
    outputs = [cell.outputs for cell in execute.code_cells(nbformat.read(small, as_version=4))]
    source = course.NOTEBOOKS / "source" / "01_small.py"
    source.write_text(SMALL.replace("# Một,", "# Số một,"), encoding="utf-8")
    publish(f'repository = "{FORK}"')
    stale = ["vi/01_small", "en/01_small", "README.md", "README.vi.md"]
    assert [line.split(":")[0] for line in build.problems()] == stale
    monkeypatch.setattr(build, "execute_all", lambda *_: pytest.fail("it ran"))
    assert build.refresh("") == [] == build.problems()
    assert FORK.encode() in small.read_bytes() and "# Số một,".encode() in small.read_bytes()
    assert [cell.outputs for cell in execute.code_cells(nbformat.read(small, as_version=4))] == outputs

    damage(small, lambda code, _: code[1].update(source="print(2)"))
    before = small.read_bytes()
    assert build.refresh("") == ["vi/01_small"] and small.read_bytes() == before


def test_notebook_that_fails_is_named_and_not_stored(small, monkeypatch, capsys):
    before, times = small.read_bytes(), build.read_times()["01_small"]

    def fail_in_vietnamese(jobs):
        for job in jobs:
            for number, cell in enumerate(execute.code_cells(job.notebook), start=1):
                cell.execution_count = number
            yield execute.Done(job, 12.3, RuntimeError("cell 3 of it") if job.title.startswith("vi") else None)

    monkeypatch.setattr(build, "execute_all", fail_in_vietnamese)
    assert build.build("") == ["vi/01_small"] and "cell 3 of it" in capsys.readouterr().err
    assert small.read_bytes() == before and build.read_times() == {"01_small": times | {"en": 12}}


def test_every_stored_notebook_is_what_its_source_gives():
    assert course.sources() and build.problems() == []


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def numbers(cell):
    """Every number that a code cell printed, in order of size."""
    return sorted(re.findall(r"\d+(?:\.\d+)?", "".join(output.get("text", "") for output in cell.outputs)))


def test_stored_notebooks_are_whole_and_print_the_same_numbers_twice():
    for source in course.sources():
        vi, en = (nbformat.read(course.stored(source, language), as_version=4) for language in ("vi", "en"))
        for one, other in zip(execute.code_cells(vi), execute.code_cells(en), strict=True):
            assert numbers(one) == numbers(other) or tagged(one, "nbval-ignore-output"), (source.stem, one.source)
        for language, notebook in (("vi", vi), ("en", en)):
            name, text = f"{language}/{source.stem}", nbformat.writes(notebook)
            assert not re.search(r"object at 0x|ipykernel_\d|model_id", text), name  # they change from run to run
            code = execute.code_cells(notebook)
            for cell in code:
                if re.search(r"\A(figure = plot|layers = )|\nfigure = plot", cell.source):
                    assert execute.pictures(cell), (name, cell.source)
            pairs = [(a, b) for a, b in itertools.pairwise(code) if tagged(a, "exercise") or tagged(b, "solution")]
            assert len(pairs) >= 2, name
            for exercise, solution in pairs:
                number = re.search(r'check\("([\d.]+)"', exercise.source).group(1)
                assert tagged(exercise, "exercise") and tagged(solution, "solution"), number
                assert exercise.outputs[0].text.startswith(f"○ {number} ")  # open, with a hint, and no traceback
                assert re.match(rf"✓ {number} \((lời giải|solution)\) · ", solution.outputs[0].text)
