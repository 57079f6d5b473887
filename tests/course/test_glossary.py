"""One term, one translation: docs/glossary.yml, the pages made of it, and every Vietnamese text."""

import sys
import tomllib
from pathlib import Path

import pytest

from tools import glossary

DATA = glossary.load()
CASES = tomllib.loads(Path(__file__).with_name("glossary.toml").read_text(encoding="utf-8"))


def test_texts_and_pages_keep_to_the_glossary():
    assert glossary.problems(DATA) == []


def test_every_kind_of_text_is_looked_at():
    texts = list(glossary.texts())
    places = {where.split(",")[0] for where, *_ in texts}
    assert {kind for _, kind, *_ in texts} == {"notebooks", "code", "pages"}
    assert {f"notebooks/source/{path.name}" for path in glossary.sources()} < places
    assert {"README.vi.md", "docs/glossary.vi.md", "tools/site/api.vi.md", "helpers/data/labels.toml"} <= places
    assert {"teaching", "experiments"} <= {place.split("/")[1] for place in places if place.startswith("helpers/")}
    assert len([en for *_, en in texts if en]) > 200


def test_another_word_a_term_left_out_or_without_its_english_is_found():
    for kind, text, message in CASES["wrong"]:
        (found,) = glossary.problems_of(DATA, "there", kind, text)
        assert message in found and found.startswith("there"), text
    for vi, en, missing in CASES["missing_terms"]:
        assert glossary.missing_terms(DATA, "there", vi, en) == missing
    for text, message in CASES["missing_glosses"]:
        found = glossary.missing_glosses(DATA, "there", text)
        assert len(found) == bool(message) and message in "".join(found)


def test_vietnamese_is_read_out_of_code():
    code = '"""Tài liệu của mô-đun."""\nx = say("tầng", "layer")\ny = f"lớp {x} và {y:>3} đầu"\nz = "head"\n'
    assert list(glossary.strings(code)) == [(2, "tầng"), (3, "lớp … và … đầu")]


@pytest.mark.parametrize(("what", "into", "message"), CASES["broken"])
def test_data_that_lack_something_are_refused_and_say_where(tmp_path, what, into, message):
    path = tmp_path / "glossary.yml"
    path.write_text(glossary.DATA.read_text(encoding="utf-8").replace(what, into, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"glossary\.yml.*{message}"):
        glossary.load(path)


def test_command_writes_the_pages_and_its_check_finds_an_edited_one(tmp_path, monkeypatch, capsys):
    for language, path in glossary.PAGES.items():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        monkeypatch.setitem(glossary.PAGES, language, tmp_path / path.name)
    for name in ("texts", "sources"):
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
