"""One term, one translation: docs/glossary.yml, the pages made of it, and every Vietnamese text."""

import sys
import unicodedata

import pytest

from tools import glossary

DATA = glossary.load()
TEXTS = list(glossary.texts())


def test_texts_and_pages_keep_to_the_glossary():
    assert glossary.problems(DATA) == []


def test_every_kind_of_text_is_looked_at():
    places = {where.split(",")[0] for where, _, _ in TEXTS}
    assert {kind for _, kind, _ in TEXTS} == {"notebooks", "code", "pages"}
    assert {f"notebooks/source/{path.name}" for path in glossary.sources()} < places
    assert {
        "README.vi.md",
        "docs/glossary.vi.md",
        "tools/site/api.vi.md",
        "helpers/data/labels.toml",
        "helpers/text.py",
    } <= places
    assert {"teaching", "experiments"} <= {place.split("/")[1] for place in places if place.startswith("helpers/")}
    assert len(list(glossary.pairs())) > 200 and len(list(glossary.notebooks())) > 10


def test_no_translation_is_on_the_list_of_what_is_not_used():
    found = [(term["en"], "pages", term[language]) for term in glossary.terms(DATA) for language in ("vi", "note_vi")]
    assert [line for item in found for line in glossary.wrong_words(DATA, *item)] == []


def test_every_exception_is_needed_and_says_why():
    without = DATA | {"exceptions": []}
    for row in DATA["exceptions"]:
        items = [item for item in TEXTS if item[0].startswith(row["in"])]
        lines = [line for item in items for line in glossary.problems_of(without, *item)]
        assert row["why"] and any(repr(row["text"]) in line for line in lines), row


def test_another_word_for_a_term_is_found():
    for kind, text, message in (
        ("pages", "Chạy mô hình một lần: một lần chạy\nxuôi qua mọi tầng.", "line 1: 'chạy xuôi'"),
        ("pages", "Một\nphân bố đều.", "line 2: 'phân bố': the glossary has 'phân phối'"),
        ("pages", "Khối chéo QK.", "'khối hỗn hợp' for cross block"),
        ("notebooks", "Có 30 lớp.", "'tầng' for layer"),
        ("code", "lớp 3, đầu 2", "'tầng' for layer"),
        ("pages", "Tỷ lệ cặp.", "write tỉ: tỉ lệ"),
        ("pages", "Chuẩn hoá cột.", "'hoá': the tone stands on the first vowel"),
        ("pages", "Tuỳ độ dời.", "'Tuỳ': the tone"),
        ("pages", "Một lượt chạy (forward pass) dài.", "the glossary has 'lượt truyền xuôi'"),
        ("notebooks", "Cái **bẫy (trap)** ấy.", "(trap) is not in docs/glossary.yml"),
        ("pages", unicodedata.normalize("NFD", "tầng"), "decomposed characters"),
    ):
        found = glossary.problems_of(DATA, "there", kind, text)
        assert len(found) == 1 and message in found[0] and found[0].startswith("there"), (text, found)


def test_what_is_right_is_left_alone():
    for kind, text in (
        ("pages", "Một lớp học có 40 sinh viên, một lớp (class) trong Python."),
        ("pages", "Biểu đồ tần suất (histogram), **độ dời trung bình (mean offset)**."),
        ("pages", "Toán, khoảng, hoàn, loại, quý, quỳ, thuở, khóa, hóa, tùy, hủy, xóa."),
        ("pages", "Mã `phân bố`, [trang](phân-bố.md), $\\text{phân bố}$ và <i title='phân bố'>thẻ</i>."),
        ("pages", "```\nphân bố\n```"),
        ("pages", "| **phân phối** | distribution | Nghĩa. Không viết: *phân bố*. |"),
        ("notebooks", "Khoảng cách này (bài 05) và nhóm kia (Llama, SmolLM)."),
        ("notebooks", "nhiều đầu dùng chung một đầu K (grouped-query attention, GQA)"),
    ):
        assert glossary.problems_of(DATA, "there", kind, text) == []


def test_a_term_left_out_of_the_translation_is_found():
    assert glossary.missing_terms(DATA, "there", "Bản đồ nhiệt của từng tầng.", "A heat map of each layer.") == []
    assert glossary.missing_terms(DATA, "there", "Hình của từng tầng.", "Heat maps of each layer.") == [
        "there: 'heat map' in English, but no 'bản đồ nhiệt' in Vietnamese"
    ]
    assert len(glossary.missing_terms(DATA, "there", "Ở tầng nông.", "At early layers and at deep layers.")) == 1


def test_first_use_without_the_english_name_is_found():
    right = "## 1. Bản đồ nhiệt\nMột **bản đồ nhiệt (heat map)**. Rồi bản đồ nhiệt khác, ở tầng nông (early layer)."
    longer = "Ta trừ trung bình chung khỏi mọi token."  # no use of "trừ trung bình"
    assert glossary.missing_glosses(DATA, "there", right) == glossary.missing_glosses(DATA, "there", longer) == []
    for text, message in (
        (right.replace(" (heat map)", ""), "the first 'bản đồ nhiệt' lacks (heat map)"),
        (longer + " Ta trừ trung bình của từng cột.", "the first 'trừ trung bình' lacks (mean-centring)"),
    ):
        (found,) = glossary.missing_glosses(DATA, "there", text)
        assert message in found


def test_vietnamese_is_read_out_of_code():
    code = '"""Tài liệu của mô-đun."""\nx = say("tầng", "layer")\ny = f"lớp {x} và {y:>3} đầu"\nz = "head"\n'
    assert list(glossary.strings(code)) == [(2, "tầng"), (3, "lớp … và … đầu")]


def test_an_exception_holds_in_its_place_only():
    row = {"in": "docs/here.vi.md", "text": "phân bố", "why": "a quotation"}
    data = DATA | {"exceptions": [row]}
    assert glossary.problems_of(data, "docs/here.vi.md", "pages", "phân bố") == []
    assert len(glossary.problems_of(data, "docs/there.vi.md", "pages", "phân bố")) == 1


SMALL = """groups:
- en: One
  vi: Một
  terms:
  - {en: layer, vi: tầng, note_en: A storey., note_vi: Một tầng., avoid: [phân bố]}
"""


def test_data_that_lack_something_are_refused_and_say_where(tmp_path):
    path = tmp_path / "glossary.yml"
    for broken, message in (
        (SMALL.replace("note_vi: Một tầng., ", ""), r"'layer': .*note_vi"),
        (SMALL.replace("avoid", "avoided"), r"'layer': .*avoided"),
        (SMALL.replace("[phân bố]", "phân bố"), r"'layer': .*avoid"),
        (SMALL + "  - {en: Layer, vi: lớp, note_en: A., note_vi: B.}\n", "one term, one translation"),
        (unicodedata.normalize("NFD", SMALL), "save it in NFC"),
    ):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"glossary\.yml.*{message}"):
            glossary.load(path)


def test_command_writes_the_pages_and_its_check_finds_an_edited_one(tmp_path, monkeypatch, capsys):
    for language, path in glossary.PAGES.items():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        monkeypatch.setitem(glossary.PAGES, language, tmp_path / path.name)
    for name in ("texts", "pairs", "notebooks"):
        monkeypatch.setattr(glossary, name, list)
    page = glossary.PAGES["vi"]
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace("| **tầng** |", "| **lớp** |"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["glossary", "--check"])
    with pytest.raises(SystemExit) as stopped:
        glossary.main()
    assert stopped.value.code == 1 and "glossary.vi.md: is not what glossary.yml gives" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["glossary"])
    glossary.main()
    assert page.read_text(encoding="utf-8") == right
