"""The build of the notebooks, and what is stored.  nbval runs and compares the outputs themselves."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from tools import build, course, execute

CASES = tomllib.loads(Path(__file__).with_name("build.toml").read_text(encoding="utf-8"))
FORK = "https://github.com/some-one/qkv.course"
MARKED = "# Title\n\n<!-- badges: made -->\n<!-- /badges -->\n\nText.\n"
SMALL = CASES["small"]
# A `helpers` that the first cell finds before the real one, so that no kernel here imports torch.
HELPERS = """
spoken = []
set_language, environment = spoken.append, lambda: "here"
say = lambda vi, en: {"vi": vi, "en": en}[spoken[-1]]
"""


def work_in(root, monkeypatch):
    """Let the tools work in `root`."""
    for name, place in (("ROOT", ""), ("NOTEBOOKS", "notebooks"), ("PYPROJECT", "pyproject.toml")):
        monkeypatch.setattr(course, name, root / place)


def publish(lines):
    """Set the lines of [tool.qkv] in the module at `course.ROOT`."""
    course.PYPROJECT.write_text(f"[tool.qkv]\n{lines}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small module whose two notebooks were built once."""
    root = tmp_path_factory.mktemp("built")
    files = {"notebooks/source/01_small.py": SMALL, "README.md": MARKED, "README.vi.md": MARKED}
    for name, text in (files | {"helpers/__init__.py": HELPERS, "helpers/capture.py": ""}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        work_in(root, patch)
        patch.setenv("QKV_MODEL", "smollm2")
        publish("")
        assert build.build("") == []
    return root


@pytest.fixture
def small(built, tmp_path, monkeypatch):
    """The path of the Vietnamese notebook in a copy of the built module, which a test may damage."""
    root = Path(shutil.copytree(built, tmp_path / "module"))
    work_in(root, monkeypatch)
    return root / "notebooks" / "vi" / "01_small.ipynb"


@pytest.fixture
def source(small):
    """The path of its source."""
    return course.NOTEBOOKS / "source" / "01_small.py"


def assembled(language="en"):
    return course.assemble(course.sources()[0], language)


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["said"])
def test_source_that_lacks_something_is_refused_with_the_place(source, case):
    source.write_text(SMALL.replace(*case["change"]), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"01_small\.py, .*{case['said']}"):
        course.read_pairs(source)


def test_ids_of_cells_depend_on_their_content_alone(source):
    before = [cell.id for cell in assembled().cells]
    source.write_text(SMALL.replace("# %%\nfrom", "# %%\n1\n\n# %%\n1\n\n# %%\nfrom"), encoding="utf-8")
    after = [cell.id for cell in assembled().cells]
    assert after[:3] + after[5:] == before and len(set(after)) == len(after)  # also of two equal cells


def test_address_is_read_with_its_branch_or_refused_in_one_line(source, monkeypatch):
    publish(f'repository = "{FORK}"\nbranch = "2026_fall"')
    assert course.read_address() == (FORK, "2026_fall")
    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    for line in CASES["addresses"]["refused"]:
        publish(line)
        with pytest.raises(SystemExit, match=r"^pyproject.toml, \[tool.qkv\]: (repository|branch) is .+; expected"):
            build.main()


def test_address_comes_and_goes_in_first_cells_links_and_badges(source):
    without = {language: assembled(language) for language in course.LANGUAGES}
    publish(f'repository = "{FORK}"')
    for _ in range(2):
        build.write_badges()
    for language, wanted in CASES["links"].items():
        before, after = without[language].cells, assembled(language).cells
        assert "colab" not in before[0].source.lower() and after[0].source.endswith(f"\n\n{wanted['colab']}")
        line = 'REPOSITORY, BRANCH = "{}", "main"'
        assert after[2].source == before[2].source.replace(line.format(""), line.format(FORK)) != before[2].source
        assert [cell.id for cell in before] == [cell.id for cell in after]
        readme = course.ROOT / wanted["readme"]
        badges = f"<!-- badges: made -->\n\n{' '.join(wanted['badges'])}\n\n"
        assert readme.read_text(encoding="utf-8") == MARKED.replace("<!-- badges: made -->\n", badges)
    for nowhere in ("", 'repository = ""'):
        publish(nowhere)
        build.write_badges()
        assert {path.read_text(encoding="utf-8") for path in course.ROOT.glob("README*.md")} == {MARKED}
    readme.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md: expected one line <!-- badges -->"):
        build.write_badges()


def test_built_notebook_speaks_its_language_and_its_seconds_are_kept(small):
    code = {}
    for language, title, word in (("vi", "# Một, $x^2$", "tầng\n"), ("en", "# One, $x^2$", "layer\n")):
        notebook = nbformat.read(course.NOTEBOOKS / language / "01_small.ipynb", as_version=4)
        nbformat.validate(notebook)
        first, said, widget, figure = code[language] = execute.code_cells(notebook)
        assert notebook.cells[1].source == title and said.outputs[0].text == word
        assert re.findall(r"^set_language.*$", first.source, flags=re.MULTILINE) == [f'set_language("{language}")']
        assert widget.outputs == [] and "widgets" not in notebook.metadata  # a stored widget is an id and no more
        assert "image/png" in figure.outputs[0].data
        for folded in (first, figure):  # the set-up and the solution, in JupyterLab and in Colab
            assert folded.metadata["jupyter"]["source_hidden"] and folded.metadata["cellView"] == "form"
    assert [cell.source for cell in code["vi"][1:]] == [cell.source for cell in code["en"][1:]]
    times = build.read_times()
    assert set(times) == {"01_small"} and all(1 <= times["01_small"][language] < 120 for language in code)


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


def test_refresh_takes_texts_and_address_from_the_sources_and_runs_nothing(small, source, monkeypatch):
    outputs = [cell.outputs for cell in execute.code_cells(nbformat.read(small, as_version=4))]
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
            job.took, job.error = 12.3, RuntimeError("cell 3 of it") if job.title.startswith("vi") else None
            yield job

    monkeypatch.setattr(build, "execute_all", fail_in_vietnamese)
    assert build.build("") == ["vi/01_small"] and "cell 3 of it" in capsys.readouterr().err
    assert small.read_bytes() == before and build.read_times() == {"01_small": times | {"en": 12}}


def test_every_stored_notebook_is_what_its_source_gives():
    assert course.sources() and build.problems() == []


def numbers(cell):
    """Every number that a code cell printed, in order of size, whichever way the language separates its digits."""
    text = "".join(output.get("text", "") for output in cell.outputs)
    return sorted(number.replace(",", ".") for number in re.findall(r"\d+(?:[.,]\d+)*", text))


def test_stored_notebooks_are_whole_and_print_the_same_numbers_twice():
    for source in course.sources():
        vi, en = (nbformat.read(course.stored(source, language), as_version=4) for language in ("vi", "en"))
        for one, other in zip(execute.code_cells(vi), execute.code_cells(en), strict=True):
            unstable = "nbval-ignore-output" in one.metadata.get("tags", [])
            assert numbers(one) == numbers(other) or unstable, (source.stem, one.source)
        for notebook in (vi, en):
            assert not re.search(r"object at 0x|ipykernel_\d|model_id", nbformat.writes(notebook)), source.stem
            by_tag, code = {"exercise": [], "solution": []}, execute.code_cells(notebook)
            for at, cell in enumerate(code):
                if re.search(r"\A(figure = plot|layers = )|\nfigure = plot", cell.source):
                    assert execute.pictures(cell), (source.stem, cell.source)
                for tag in by_tag.keys() & {*cell.metadata.get("tags", [])}:
                    by_tag[tag].append(at)
            assert len(by_tag["exercise"]) >= 2, source.stem
            assert by_tag["solution"] == [at + 1 for at in by_tag["exercise"]], source.stem
            for at in by_tag["exercise"]:
                number = re.search(r'check\("([\d.]+)"', code[at].source).group(1)
                assert code[at].outputs[0].text.startswith(f"○ {number} ")  # open, with a hint, and no traceback
                assert re.match(rf"✓ {number} \((lời giải|solution)\) · ", code[at + 1].outputs[0].text)
