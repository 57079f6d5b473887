"""What is refused, in both languages."""

import re

import pytest

from helpers import set_language


def assert_refused(call, error, message, vietnamese=None):
    """`call()` raises this error: in English with this message (a regular expression), in Vietnamese with other words
    (those given) and the same numbers, quotations and line breaks.  Returns the English error."""
    set_language("vi")
    with pytest.raises(error, match=vietnamese) as vi:
        call()
    set_language("en")
    with pytest.raises(error, match=message) as en:
        call()
    facts = [set(re.findall(r"'[^']*'|\d+|\w+\(\)|\n", str(raised.value))) for raised in (vi, en)]
    assert facts[0] == facts[1] and re.search("[à-ÿăđơưạ-ỹ]", str(vi.value)), str(vi.value)
    return en.value
