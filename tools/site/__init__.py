"""The site of the module: `python -m tools.site.build`."""

import tomllib
from pathlib import Path

_TEXTS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
WORDS = {language: {key: texts[at] for key, texts in _TEXTS.items()} for at, language in enumerate(("vi", "en"))}
