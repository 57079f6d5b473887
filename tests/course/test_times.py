"""The times that the notebooks state: the reader's against the rule, the computer's against a timed run."""

import json
import re
from pathlib import Path

import pytest

from tools import build, course

ROOT = Path(__file__).resolve().parents[2]


SOURCES = course.sources()
HEADER = {
    "en": r"\*\*Time:\*\* about (\d+) minutes of reading and exercises; the computer runs for about (\d+) (minutes|seconds)\.",
    "vi": r"\*\*Thời gian:\*\* khoảng (\d+) phút đọc và làm bài tập; máy tính chạy khoảng (\d+) (phút|giây)\.",
}
every_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def stated(path, language):
    """(minutes of the reader, seconds of the computer) in the head of a notebook."""
    text = "\n".join(content[language] for kind, content in course.read_pairs(path) if kind == "text")
    ((reader, computer, unit),) = re.findall(HEADER[language], text)
    return int(reader), int(computer) * (60 if unit in ("minutes", "phút") else 1)


def within_factor_two(a, b):
    return max(a, b) <= 2 * min(a, b)


@every_notebook
def test_the_head_states_both_times_and_the_same_in_both_languages(path):
    assert stated(path, "vi") == stated(path, "en")


@every_notebook
def test_the_readers_time_is_within_a_factor_of_two_of_the_rule(path):
    assert within_factor_two(stated(path, "en")[0], course.working_minutes(path))


@every_notebook
@pytest.mark.parametrize("language", course.LANGUAGES)
def test_the_computers_time_is_within_a_factor_of_two_of_the_timed_run(path, language):
    times = json.loads((ROOT / "notebooks" / "times.json").read_text(encoding="utf-8"))
    assert language in times.get(path.stem, {}), f"{path.stem}, {language}: no time in times.json; build it once"
    said, took = stated(path, language)[1], times[path.stem][language]
    assert within_factor_two(said, took), (
        f"{path.stem}, {language}: the head says {said} s, the run took {took} s. Correct the head; or, if this machine "
        "is unlike the one of the stored outputs, take notebooks/times.json back"
    )


def test_every_time_belongs_to_a_notebook():
    times = json.loads((ROOT / "notebooks" / "times.json").read_text(encoding="utf-8"))
    assert set(times) <= {path.stem for path in SOURCES}


@pytest.mark.parametrize(("page", "language"), [("teaching.md", "en"), ("teaching.vi.md", "vi")])
def test_the_page_for_lecturers_has_the_same_times_and_names_the_rates(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    unit = {"en": ("minutes", "seconds"), "vi": ("phút", "giây")}[language]
    rows = re.findall(rf"^\| (\d\d) \|[^|]+\| (\d+) \| (\d+) ({'|'.join(unit)}) \| (\d) \|$", text, re.MULTILINE)
    found = {row[0]: (int(row[1]), int(row[2]) * (60 if row[3] == unit[0] else 1), int(row[4])) for row in rows}
    assert found == {path.stem[:2]: (*stated(path, language), course.workload(path)["exercises"]) for path in SOURCES}
    each = course.MINUTES_EACH
    assert each["predictions"] == each["figures"] == each["questions"]
    said = {
        "en": "{words} words a minute", "vi": "{words} từ mỗi phút",
    }[language], {"en": "{lines} lines a minute", "vi": "{lines} dòng mỗi phút"}[language], {
        "en": "{exercises} minutes for an exercise; {predictions} minute each",
        "vi": "mỗi bài tập {exercises} phút; mỗi dự đoán, mỗi hình, mỗi câu tự kiểm tra {predictions} phút",
    }[language]  # fmt: skip
    for sentence in said:
        assert sentence.format(words=course.WORDS_PER_MINUTE, lines=course.CODE_LINES_PER_MINUTE, **each) in text


# ---- how it is counted, and written down ---------------------------------------------------------

SMALL = '''# %% [markdown] lang="vi"
r"""
Một.
"""

# %% [markdown] lang="en"
r"""
One two three. **Predict.** Four?
"""

# %% tags=["setup"]
from helpers import set_language

set_language("vi")

# %%
import torch

# %%
x = 1

figure = plot(x)

# %% tags=["exercise"]
y = ...

# %% tags=["solution"]
y = 2
z = 3

# %% [markdown] lang="vi"
r"""
## Tự kiểm tra
"""

# %% [markdown] lang="en"
r"""
## Check yourself
1. Why?
2. How?

<details>

1. So.
</details>

## References
- A. Author, a very long title.
"""
'''


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "01_small.py"
    path.write_text(SMALL, encoding="utf-8")
    monkeypatch.setattr(build, "HERE", tmp_path)
    return path


def test_the_workload_leaves_out_references_setup_imports_and_solutions(small):
    assert course.workload(small) == {
        "words": 16, "lines of code": 3, "exercises": 1, "predictions": 1, "figures": 1, "questions": 2,
    }  # fmt: skip
    expected = 16 / 120 + 3 / 10 + course.MINUTES_EACH["exercises"] + 1 + 1 + 2
    assert course.working_minutes(small) == pytest.approx(expected)


def test_a_build_writes_down_seconds_and_keeps_the_other_ones(small):
    build.keep_time(small, "en", 3.4)
    build.keep_time(small.with_name("02_other.py"), "en", 7)
    build.keep_time(small, "vi", 5.6)
    build.keep_time(small, "en", 4.6)
    times = json.loads((course.NOTEBOOKS / "times.json").read_text(encoding="utf-8"))
    assert times == {"01_small": {"en": 5, "vi": 6}, "02_other": {"en": 7}}


def test_building_records_the_time_of_each_language(small, monkeypatch):
    monkeypatch.setattr(build, "execute", lambda notebook, folder, title: 12.3 if title.startswith("vi") else 45.6)
    monkeypatch.setenv("QKV_MODEL", "smollm2")
    build.build("")
    times = json.loads((course.NOTEBOOKS / "times.json").read_text(encoding="utf-8"))
    assert times == {"01_small": {"en": 46, "vi": 12}}
