"""Feedback on exercises, in the reader's language: what is wrong and where to look, never the answer.

    check("1.2", last_positions, batch)

prints one line, with how many exercises of the notebook the reader solved, and raises nothing.  A cell
that uses an answer begins with `needs("4.1")`: while the answer is open or wrong, it says so and stops,
so that no wrong answer turns what is computed further down.  The judge of exercise 1.2 is the function `exercise_1_2`
in one of the files beside this one.  It names a hint of helpers/data/hints.toml, or returns nothing when the
answer is right; `answers` holds what the judges share, and what they raise when an answer cannot be read.
"""

import tomllib
from pathlib import Path

from helpers.settings import say
from helpers.teaching.checks import nb01_06, nb07_11
from helpers.teaching.checks.answers import Wrong, is_open, too_short

HINTS = tomllib.loads(Path(__file__).parents[2].joinpath("data/hints.toml").read_text(encoding="utf-8"))
"""{number: {name: [Vietnamese, English]}}"""
EXERCISES = {
    name.removeprefix("exercise_").replace("_", "."): judge
    for notebooks in (nb01_06, nb07_11)
    for name, judge in vars(notebooks).items()
    if name.startswith("exercise_")
}
answered = set()  # numbers of the exercises whose answer, as it stands now, is right; whoever gave it
_solved = set()  # numbers of the exercises that the reader solved since the kernel started


def hint(name, number="any", /, **facts):
    """A text of `HINTS` in the reader's language."""
    return say(*HINTS[number][name]).format(**facts)


class StillOpen(Exception):
    """A cell needs an exercise that is open or wrong; shown as its one sentence, without a traceback."""

    def _render_traceback_(self):
        return [str(self)]


def needs(*numbers):
    """Go on only if the answers to these exercises, as they stand now, are right.

    Raises:
        StillOpen: one is open or wrong.
    """
    missing = ", ".join(number for number in numbers if number not in answered)
    if missing:
        raise StillOpen(hint("needed", missing=missing))


def check(number, *answers, solution=False):
    """Print whether the answers to an exercise are right, and if not, a hint; then the progress.

    Args:
        number: of the exercise, e.g. "1.2".
        answers: what the exercise asks for, then what is needed to judge it.
        solution: the answers are the module's, and do not count as the reader's progress.

    Raises:
        ValueError: no such exercise.
    """
    right, why = grade(number, *answers)
    (answered.add if right else answered.discard)(number)
    if right and not solution:
        _solved.add(number)
    said = f"✓ {number}" if right else f"○ {number} {why}"
    print(said, *[say("(lời giải)", "(solution)")] * solution, "·", progress(number))


def progress(number):
    """How many exercises of this one's notebook the reader solved in this session, out of how many."""
    notebook = number.split(".")[0] + "."
    solved, every = (sum(other.startswith(notebook) for other in numbers) for numbers in (_solved, EXERCISES))
    return f"{say('bài tập', 'exercises')}: {solved}/{every}"


def grade(number, *answers):
    """(right, hint): as `check`, but returned; the hint is None for a right answer."""
    if number not in EXERCISES:
        raise ValueError(hint("unknown", asked=number, known=", ".join(EXERCISES)))
    if not answers or is_open(answers[0]):
        return False, hint("open")
    too_short.clear()
    try:
        if said := EXERCISES[number](*answers):
            name, facts = said if isinstance(said, tuple) else (said, {})
            said = hint(name, number, **facts)
    except Wrong as wrong:
        said = str(wrong)
    except Exception as error:  # noqa: BLE001 - an answer of a kind that no judge expects
        said = hint("unreadable", name=type(error).__name__)
    if said and too_short:
        said = hint("too_short", dtypes=", ".join(too_short))
    return said is None, said
