"""Feedback on exercises, in the reader's language: what is wrong and where to look, never the answer.

    check("1.2", last_positions, batch)

prints one line, with how many exercises of the notebook are solved, and raises nothing, so that a
notebook with open exercises runs to its end.  The judge of exercise 1.2 is the function `exercise_1_2`
in one of the files beside this one.  It returns a hint made with `say`, or nothing when the answer is
right; `answers` holds what the judges share, and what they raise when an answer cannot be read.
"""

from helpers.settings import say
from helpers.teaching.checks import nb01_06, nb07_11
from helpers.teaching.checks.answers import Wrong, is_open

EXERCISES = {
    name.removeprefix("exercise_").replace("_", "."): judge
    for notebooks in (nb01_06, nb07_11)
    for name, judge in vars(notebooks).items()
    if name.startswith("exercise_")
}
_solved = set()  # numbers of the exercises solved since the kernel started


def check(number, *answers):
    """Print whether the answers to an exercise are right, and if not, a hint; then the progress.

    Args:
        number: of the exercise, e.g. "1.2".
        answers: what the exercise asks for, then what is needed to judge it.

    Raises:
        ValueError: no such exercise.
    """
    right, hint = grade(number, *answers)
    if right:
        _solved.add(number)
    print(f"✓ {number}" if right else f"○ {number} {hint}", "·", progress(number))


def progress(number):
    """How many exercises of this one's notebook were solved in this session, out of how many."""
    notebook = number.split(".")[0] + "."
    solved, every = (sum(other.startswith(notebook) for other in numbers) for numbers in (_solved, EXERCISES))
    return f"{say('bài tập', 'exercises')}: {solved}/{every}"


def grade(number, *answers):
    """(right, hint): as `check`, but returned; the hint is None for a right answer."""
    if number not in EXERCISES:
        known = ", ".join(EXERCISES)
        vi = f"không có bài tập {number!r}: chọn một trong {known}"
        raise ValueError(say(vi, f"no exercise {number!r}: expected one of {known}"))
    if not answers or is_open(answers[0]):
        vi = "chưa làm: thay dấu … bằng lời giải của bạn"
        return False, say(vi, "not done yet: replace the … with your own answer")
    try:
        hint = EXERCISES[number](*answers)
    except Wrong as wrong:
        hint = str(wrong)
    except Exception as error:  # noqa: BLE001 - an answer of a kind that no judge expects
        name = type(error).__name__
        hint = say(
            f"không đọc được câu trả lời này ({name}): so kiểu của nó với đề bài",
            f"this answer cannot be read ({name}): compare its type with what the exercise asks for",
        )
    return hint is None, hint
