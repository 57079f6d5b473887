"""The language in use, the folder of the cache, and what the core refuses, in both languages."""

import builtins
import tomllib
import unicodedata
from functools import partial
from pathlib import Path

import pytest
import torch

import helpers
from helpers import encode, get_language, say, set_language, settings
from tests.support.refusal import assert_refused
from tests.support.tiny import random_model, word_tokenizer

REFUSED = tomllib.loads(Path(__file__).with_name("refused.toml").read_text(encoding="utf-8"))["refused"]
TOKENIZER = word_tokenizer(["<pad>", "<unk>", "I", "saw", "again", "her", "met", "today"], pad_token="<pad>")
MAKE = dict.fromkeys(("x", "similarity", "shares"), torch.ones) | {
    "edges": partial(torch.linspace, -1, 1),
    "histogram": lambda bins: helpers.block_histograms(torch.ones(3, 6), (2, 2, 2), bins=bins)["cosine"]["QQ"],
    "tokenizer": {"words": TOKENIZER}.get,
    "model": random_model,
    "batch": partial(encode, TOKENIZER),
    "positions": torch.tensor,
    "generator": lambda seed: torch.Generator().manual_seed(seed) if seed else None,
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["calls"][0])
def test_what_makes_no_sense_is_refused(case):
    for given in case["given"]:
        arguments = {name: MAKE[name](value) if name in MAKE else value for name, value in given.items()}
        for name in case["calls"]:
            error = getattr(builtins, case.get("error", "ValueError"))
            assert_refused(partial(getattr(helpers, name), **arguments), error, case["says"].format(**given))


def test_language_chosen_is_in_use_and_an_unknown_one_changes_nothing(language):
    text = {"en": "café", "vi": "độ tương đồng"}
    assert get_language() == language
    decomposed = {name: unicodedata.normalize("NFD", of_it) for name, of_it in text.items()}
    assert say(**decomposed) == text[language] != decomposed[language]
    for unknown in ("fr", "VI", "", None):
        both = rf"không có ngôn ngữ {unknown!r}: cần 'vi'.* · unknown language {unknown!r}: expected 'vi'.*or 'en'"
        with pytest.raises(ValueError, match=both):
            set_language(unknown)
        assert get_language() == language


def test_cache_is_in_the_users_folder_unless_told_otherwise(monkeypatch, tmp_path):
    for variable in ("QKV_CACHE", "HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert settings.cache_dir() == tmp_path
    monkeypatch.setenv("QKV_CACHE", "~/models")
    assert settings.cache_dir() == tmp_path / "models"
    monkeypatch.delenv("QKV_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/somewhere/{name}")
    assert settings.cache_dir() == Path("/somewhere/qkv-token-similarity")


def test_error_of_another_is_cut_to_a_line_with_its_type_where_needed():
    for error, line in (
        (ValueError("one\ntwo"), "one"),
        (ImportError("\nNeeds a library:\npip install it\nand more"), "Needs a library: pip install it"),
        (KeyError("added"), "KeyError: 'added'"),
        (MemoryError(), "MemoryError"),
        (OSError(28, "No space left", "x"), "[Errno 28] No space left: 'x'"),
        (RuntimeError("x" * 999), "x" * 300),
    ):
        assert settings.first_line(error) == line


def test_numbers_are_written_as_the_language_writes_them(capsys):
    for english, vietnamese in (
        ("QQ  165,600  -0.74  ×1.2", "QQ  165.600  -0,74  ×1,2"),
        ("S = 0.38 [+0.34, +0.43]", "S = 0,38 [+0,34; +0,43]"),
        ("layers 10, 11 (576, 192, 192) 0.1.2 2.13.0+cpu Q4_1", "layers 10, 11 (576, 192, 192) 0.1.2 2.13.0+cpu Q4_1"),
    ):
        for language, wanted in (("en", english), ("vi", vietnamese)):
            set_language(language)
            settings.show(english, 1.5, sep="|")
            assert capsys.readouterr().out == f"{wanted}|{'1,5' if language == 'vi' else '1.5'}\n"
