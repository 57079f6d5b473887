"""One term, one translation: docs/glossary.yml, the pages made of it, and every Vietnamese text."""

import sys
import unicodedata

import pytest

from tools import glossary

DATA = glossary.load()


def test_texts_and_pages_keep_to_the_glossary():
    assert glossary.problems(DATA) == []


def test_every_kind_of_text_is_looked_at():
    texts = list(glossary.texts())
    places = {where.split(",")[0] for where, _, _ in texts}
    assert {kind for _, kind, _ in texts} == {"notebooks", "code", "pages"}
    assert {f"notebooks/source/{path.name}" for path in glossary.sources()} < places
    assert {"README.vi.md", "docs/glossary.vi.md", "tools/site/api.vi.md", "helpers/data/labels.toml"} <= places
    assert {"teaching", "experiments"} <= {place.split("/")[1] for place in places if place.startswith("helpers/")}
    assert len(list(glossary.pairs())) > 200 and len(list(glossary.notebooks())) > 10


def test_another_word_for_a_term_is_found():
    for kind, text, message in (
        ("pages", "Chạy mô hình một lần: một lần chạy\nxuôi qua mọi tầng.", "line 1: 'chạy xuôi'"),
        ("pages", "Một\nphân bố đều.", "line 2: 'phân bố': the glossary has 'phân phối'"),
        ("notebooks", "Có 30 lớp.", "'tầng' for layer"),
        ("pages", "Tỷ lệ cặp.", "write tỉ: tỉ lệ"),
        ("pages", "Chuẩn hoá cột.", "'hoá': the tone stands on the first vowel"),
        ("pages", "Tuỳ độ dời.", "'Tuỳ': the tone"),
        ("pages", "Một lượt chạy (forward pass) dài.", "the glossary has 'lượt truyền xuôi'"),
        ("notebooks", "Cái **bẫy (trap)** ấy.", "(trap) is not in docs/glossary.yml"),
        ("pages", unicodedata.normalize("NFD", "tầng"), "decomposed characters"),
    ):
        found = glossary.problems_of(DATA, "there", kind, text)
        assert len(found) == 1 and message in found[0] and found[0].startswith("there"), (text, found)


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


def test_data_that_lack_something_are_refused_and_say_where(tmp_path):
    path, text = tmp_path / "glossary.yml", glossary.DATA.read_text(encoding="utf-8")
    for broken, message in (
        (text.replace("\n    note_vi:", "\n    note_fr:", 1), r"'language model': .*note_fr.*note_vi"),
        (text.replace("\n    avoid: [", "\n    avoid: one  # [", 1), r"'token': .*avoid"),
        (text.replace("- en: token\n", "- en: Language model\n"), "one term, one translation"),
        (unicodedata.normalize("NFD", text), "save it in NFC"),
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
