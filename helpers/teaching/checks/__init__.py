"""Feedback on exercises, in the reader's language: what is wrong and where to look, never the answer.

    check("1.2", last_positions, batch)

prints one line, with how many exercises of the notebook the reader solved, and raises nothing.  A cell that uses an
answer begins with `needs("4.1")`: while the answer is open or wrong, it says so and stops, so that no wrong answer turns
what is computed further down.  The functions of `judges` judge; `answers` holds what they share, and what they raise when
an answer cannot be read.
"""

from helpers.settings import localised, message
from helpers.teaching.checks import judges
from helpers.teaching.checks.answers import Wrong, is_open, too_short

EXERCISES = {  # in the order of the notebooks
    name.removeprefix("exercise_").replace("_", "."): judge
    for name, judge in vars(judges).items()
    if name.startswith("exercise_")
}
answered = set()  # numbers of the exercises whose answer, as it stands now, is right; whoever gave it
_solved = set()  # numbers of the exercises that the reader solved since the kernel started


class StillOpen(Exception):
    """A cell needs an exercise that is open or wrong; shown as its one sentence, without a traceback."""

    def _render_traceback_(self):
        return [str(self)]


def needs(*numbers):
    """Go on only if the answers to these exercises, as they stand now, are right: else raise `StillOpen`."""
    if missing := ", ".join(number for number in numbers if number not in answered):
        raise StillOpen(message("exercise_needed", missing=missing))


def check(number, *answers, solution=False):
    """Print whether the answers to an exercise are right, and if not, a hint; then the progress.

    The answers are what exercise `number` ("1.2") asks for, then what is needed to judge it; if they are the module's own
    `solution`, they do not count as the reader's progress.  `ValueError`: no such exercise.
    """
    right, why = grade(number, *answers)
    (answered.add if right else answered.discard)(number)
    if right and not solution:
        _solved.add(number)
    said = f"✓ {number}" if right else f"○ {number} {localised(why)}"
    notebook = number.split(".")[0] + "."
    solved, every = (sum(other.startswith(notebook) for other in numbers) for numbers in (_solved, EXERCISES))
    print(said, *[message("answer_solution")] * solution, message("exercise_progress", solved=solved, every=every))


def grade(number, *answers):
    """(right, hint): as `check`, but returned; the hint is None for a right answer."""
    if number not in EXERCISES:
        raise ValueError(message("no_exercise", asked=number, known=", ".join(EXERCISES)))
    if not answers or is_open(answers[0]):
        return False, message("exercise_open")
    too_short.clear()
    try:
        found = EXERCISES[number](*answers)
        name, facts = found if isinstance(found, tuple) else (found, {})
        said = message(f"{number} {name}", **facts) if name else None
    except Wrong as wrong:
        said = str(wrong)
    except Exception as error:  # noqa: BLE001 - an answer of a kind that no judge expects
        said = message("answer_unreadable", name=type(error).__name__)
    if said and too_short:
        said = message("answer_too_short", dtypes=", ".join(too_short))
    return said is None, said
