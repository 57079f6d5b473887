"""One term, one translation: docs/glossary.yml, the pages made of it, and every Vietnamese text."""

import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


from tools import glossary

DATA = glossary.load()
TEXTS = list(glossary.texts())
PAIRS = list(glossary.pairs())
NOTEBOOKS = dict(glossary.notebooks())


# ---- what is there -------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_page_is_what_the_data_gives(language):
    assert glossary.PAGES[language].read_text(encoding="utf-8") == glossary.page(language, DATA)


def test_every_kind_of_text_is_looked_at():
    places = " ".join(where for where, _, _ in TEXTS)
    assert {kind for _, kind, _ in TEXTS} == {"notebooks", "code", "pages"}
    for number in range(1, 12):
        assert f"notebooks/source/{number:02d}_" in places
    for place in (
        "README.vi.md",
        "docs/glossary.vi.md",
        "helpers/teaching/checks.py",
        "helpers/teaching/labels.py",
        "helpers/experiments/study.py",
    ):
        assert place in places


@pytest.mark.parametrize("place", sorted({where.split(",")[0] for where, _, _ in TEXTS}))
def test_a_text_keeps_to_the_glossary(place):
    found = [item for item in TEXTS if item[0].split(",")[0] == place]
    assert [line for item in found for line in glossary.problems_of(DATA, *item)] == []


@pytest.mark.parametrize("place", sorted({where.split(",")[0] for where, _, _ in PAIRS}))
def test_a_term_of_the_english_text_is_in_the_vietnamese_one(place):
    found = [item for item in PAIRS if item[0].split(",")[0] == place]
    assert [line for item in found for line in glossary.missing_terms(DATA, *item)] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_gives_the_english_name_at_the_first_use_of_a_term(name):
    assert glossary.missing_glosses(DATA, name, NOTEBOOKS[name]) == []


def test_no_translation_is_on_the_list_of_what_is_not_used():
    for term in glossary.terms(DATA):
        for language in ("vi", "note_vi"):
            text = term[language]
            assert glossary.wrong_words(DATA, term["en"], "pages", text) == [], text


def test_every_exception_is_needed_and_says_why():
    without = DATA | {"exceptions": []}
    for row in DATA["exceptions"]:
        items = [item for item in TEXTS if item[0].startswith(row["in"])]
        lines = [line for item in items for line in glossary.problems_of(without, *item)]
        assert row["why"] and any(repr(row["text"]) in line for line in lines), row


# ---- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("pages", "Chạy mô hình một lần: một lần chạy\nxuôi qua mọi tầng.", "line 1: 'chạy xuôi'"),
        ("pages", "Một\nphân bố đều.", "line 2: 'phân bố': the glossary has 'phân phối'"),
        ("pages", "Phân bố đều.", "'phân bố'"),
        ("pages", "Độ lệch trung bình của K.", "'độ dời trung bình' for mean offset"),
        ("pages", "Khối chéo QK.", "'khối hỗn hợp' for cross block"),
        ("notebooks", "Có 30 lớp.", "'tầng' for layer"),
        ("code", "lớp 3, đầu 2", "'tầng' for layer"),
        ("pages", "Một vectơ.", "'vector'"),
        ("pages", "Tỷ lệ cặp.", "write tỉ: tỉ lệ"),
        ("pages", "Chuẩn hoá cột.", "'hoá': the tone stands on the first vowel"),
        ("pages", "Tuỳ độ dời.", "'Tuỳ': the tone"),
        ("pages", "Một lượt chạy (forward pass) dài.", "the glossary has 'lượt truyền xuôi'"),
        ("notebooks", "Cái **bẫy (trap)** ấy.", "(trap) is not in docs/glossary.yml"),
        ("pages", unicodedata.normalize("NFD", "tầng"), "decomposed characters"),
    ],
)
def test_another_word_for_a_term_is_found(kind, text, message):
    found = glossary.problems_of(DATA, "there", kind, text)
    assert len(found) == 1 and message in found[0] and found[0].startswith("there"), found


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("pages", "Một lớp học có 40 sinh viên, một lớp (class) trong Python."),
        ("pages", "Biểu đồ tần suất (histogram), **độ dời trung bình (mean offset)**."),
        ("pages", "Toán, khoảng, hoàn, loại, quý, quỳ, thuở, khóa, hóa, tùy, hủy, xóa."),
        ("pages", "Mã `phân bố`, [trang](phân-bố.md), $\\text{phân bố}$ và <i title='phân bố'>thẻ</i>."),
        ("pages", "```\nphân bố\n```"),
        ("pages", "| **phân phối** | distribution | Nghĩa. Không viết: *phân bố*. |"),
        ("notebooks", "Khoảng cách này (bài 05) và nhóm kia (Llama, SmolLM)."),
        ("notebooks", "nhiều đầu dùng chung một đầu K (grouped-query attention, GQA)"),
    ],
)
def test_what_is_right_is_left_alone(kind, text):
    assert glossary.problems_of(DATA, "there", kind, text) == []


def test_a_term_left_out_of_the_translation_is_found():
    assert glossary.missing_terms(DATA, "there", "Bản đồ nhiệt của từng tầng.", "A heat map of each layer.") == []
    assert glossary.missing_terms(DATA, "there", "Hình của từng tầng.", "Heat maps of each layer.") == [
        "there: 'heat map' in English, but no 'bản đồ nhiệt' in Vietnamese"
    ]
    assert len(glossary.missing_terms(DATA, "there", "Ở tầng nông.", "At early layers and at deep layers.")) == 1


def test_a_first_use_without_the_english_name_is_found_and_a_heading_is_none():
    right = "## 1. Bản đồ nhiệt\nMột **bản đồ nhiệt (heat map)**. Rồi bản đồ nhiệt khác, ở tầng nông (early layer)."
    assert glossary.missing_glosses(DATA, "there", right) == []
    found = glossary.missing_glosses(DATA, "there", right.replace(" (heat map)", ""))
    assert len(found) == 1 and "the first 'bản đồ nhiệt' lacks (heat map)" in found[0]


def test_words_that_another_term_runs_into_are_no_use_of_the_shorter_one():
    text = "Ta trừ trung bình chung khỏi mọi token."
    assert glossary.missing_glosses(DATA, "there", text) == []
    found = glossary.missing_glosses(DATA, "there", text + " Ta trừ trung bình của từng cột.")
    assert len(found) == 1 and "the first 'trừ trung bình' lacks (mean-centring)" in found[0]


def test_vietnamese_is_read_out_of_code():
    code = '"""Tài liệu của mô-đun."""\nx = say("tầng", "layer")\ny = f"lớp {x} và {y:>3} đầu"\nz = "head"\n'
    assert list(glossary.strings(code)) == [(2, "tầng"), (3, "lớp … và … đầu")]


def test_an_exception_holds_in_its_place_only():
    row = {"in": "docs/here.vi.md", "text": "phân bố", "why": "a quotation"}
    data = DATA | {"exceptions": [row]}
    assert glossary.problems_of(data, "docs/here.vi.md", "pages", "phân bố") == []
    assert len(glossary.problems_of(data, "docs/there.vi.md", "pages", "phân bố")) == 1


# ---- the data, and the command -------------------------------------------------------------------

SMALL = """groups:
- en: One
  vi: Một
  terms:
  - {en: layer, vi: tầng, note_en: A storey., note_vi: Một tầng., avoid: [phân bố]}
"""


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (SMALL.replace("note_vi: Một tầng., ", ""), r"'layer': missing \['note_vi'\]"),
        (SMALL.replace("avoid", "avoided"), r"unknown \['avoided'\]"),
        (SMALL.replace("[phân bố]", "phân bố"), r"\['avoid'\] should be \['list'\]"),
        (SMALL + "  - {en: Layer, vi: lớp, note_en: A., note_vi: B.}\n", "one term, one translation"),
        (unicodedata.normalize("NFD", SMALL), "save it in NFC"),
    ],
)
def test_data_that_lack_something_are_refused_and_say_where(tmp_path, broken, message):
    path = tmp_path / "glossary.yml"
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        glossary.load(path)
    assert "glossary.yml" in str(error.value)


def test_the_command_writes_the_pages_and_its_check_finds_an_edited_one(tmp_path):
    for folder in ("docs", "helpers", "notebooks/source"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("images", "__pycache__"))
    command = [sys.executable, str(tmp_path / "docs" / "glossary.py")]

    def run(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, encoding="utf-8", check=False)

    page = tmp_path / "docs" / "glossary.vi.md"
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace("| **tầng** |", "| **lớp** |"), encoding="utf-8")
    checked = run("--check")
    assert checked.returncode == 1 and "glossary.vi.md: is not what glossary.yml gives" in checked.stdout
    assert run().returncode == 0 and page.read_text(encoding="utf-8") == right
