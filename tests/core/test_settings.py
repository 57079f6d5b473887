"""The language in use and the folder of the cache."""

import unicodedata
from pathlib import Path

import pytest

from helpers import get_language, say, set_language, settings
from helpers.settings import LANGUAGES


@pytest.fixture(autouse=True)
def restore_language():
    before = get_language()
    yield
    set_language(before)


def test_language_chosen_is_in_use_and_an_unknown_one_changes_nothing():
    for language, text in (("en", "café"), ("vi", "độ tương đồng")):
        set_language(language)
        assert get_language() == language
        decomposed = unicodedata.normalize("NFD", text)
        assert say(*(decomposed if name == language else "other" for name in LANGUAGES)) == text != decomposed
    for unknown in ("fr", "VI", "", None):
        both = rf"không có ngôn ngữ {unknown!r}: cần 'vi'.* · unknown language {unknown!r}: expected 'vi'.*or 'en'"
        with pytest.raises(ValueError, match=both):
            set_language(unknown)
        assert get_language() == "vi"


def test_cache_is_in_the_users_folder_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("QKV_CACHE", str(tmp_path))
    assert settings.cache_dir() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
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
