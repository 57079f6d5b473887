"""The glossary: its tables in docs/glossary*.md, and where a Vietnamese text does not keep to it.

    python -m tools.glossary            write the tables of both pages out of docs/glossary.yml
    python -m tools.glossary --check    write nothing; list what is wrong with the pages and the texts, if anything

Looked at: the Vietnamese cells of notebooks/source (beside their English partners), every *.vi.md, and
every Vietnamese string of the code (the cells, `helpers`, the labels).
"""

import ast
import functools
import re
import sys
import tomllib
import unicodedata

import yaml

from tools import course
from tools.benchmarks.report import between, command, pages, rewrite, stale, table
from tools.course import ROOT, read_pairs, sources

DATA = ROOT / "docs" / "glossary.yml"
LABELS = [ROOT / "helpers" / "data" / f"{name}.toml" for name in ("labels", "messages", "claims")]
PAGES = pages("glossary")
NEEDED = {"en": str, "vi": str, "note_en": str, "note_vi": str}
OPTIONAL = {"also_en": list, "also_vi": list, "avoid": list, "everyday": bool, "first": bool}
PATTERNS = yaml.safe_load(DATA.read_text(encoding="utf-8"))["patterns"]


def load(path=DATA):
    """The data of the glossary, checked.

    Raises:
        ValueError: something is missing, unknown, there twice or not in composed characters (NFC).
    """
    text = path.read_text(encoding="utf-8")
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError(f"{path.name}: holds decomposed characters: save it in NFC")
    data = yaml.safe_load(text)
    seen = set()
    for term in terms(data):
        where = f"{path.name}, {term.get('en', term)!r}"
        kinds = {key: type(value) for key, value in term.items()}
        if wrong := (NEEDED.items() - kinds.items()) | (kinds.items() - (NEEDED | OPTIONAL).items()):
            raise ValueError(f"{where}: missing, unknown or of a wrong type: {sorted({key for key, _ in wrong})}")
        if again := seen.intersection(names(term, "en")):
            raise ValueError(f"{where}: {sorted(again)} stands in another entry already: one term, one translation")
        seen.update(names(term, "en"))
    return data


def terms(data):
    return [term for group in data["groups"] for term in group["terms"]]


def names(term, language):
    """Every name of a term in a language, in small letters."""
    return [name.casefold() for name in (term[language], *term.get(f"also_{language}", ()))]


def _avoided(term):
    """{word: only in notebooks and code} for each entry of `avoid`."""
    rows = ({"text": word, "in": ""} if isinstance(word, str) else word for word in term.get("avoid", ()))
    return {row["text"]: row["in"] == "notebooks" for row in rows}


def page(data, text, language):
    """The page as it should be: one table for each group of terms, and what stands around the marks as it is."""
    other, heading, tables = "vi" if language == "en" else "en", data["headings"][language], ""
    for group in data["groups"]:
        rows = [(f"**{term[language]}**", term[other], term[f"note_{language}"]) for term in group["terms"]]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        tables += f"\n## {group[language]}\n\n{table(heading, rows)}\n"
    return between(text, "terms", tables)


def prose(text):
    """A Markdown text with a dot for every character that is not prose; lines stay where they are."""
    return re.sub(PATTERNS["not_prose"], lambda found: re.sub(r"[^\n]", "·", found.group()), text)


def strings(code):
    """(line, text) of every string of Python code that holds a Vietnamese letter, docstrings apart."""
    tree = ast.parse(code)
    skipped, found = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in ast.walk(node) if part is not node)
            text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if id(node) not in skipped and re.search(PATTERNS["vietnamese"], unicodedata.normalize("NFC", text)):
            found.append((node.lineno, text))
    return sorted(found)


def texts():
    """(where, kind, Vietnamese text, its English partner or None) of all; the kind is "notebooks", "code" or "pages".

    Partners are the texts of the notebooks, and the rows of figures' labels and of messages.
    """
    for path in sources():
        for number, (kind, content) in enumerate(read_pairs(path), start=1):
            where = f"notebooks/source/{path.name}, cell {number}"
            if kind == "text":
                yield where, "notebooks", content["vi"], content["en"]
            else:
                code = re.sub(r"^\s*[%!].*$", "", content.source, flags=re.MULTILINE)
                yield from ((where, "code", text, None) for _, text in strings(code))
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        for line, text in strings(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(ROOT).as_posix()}, line {line}", "code", text, None
    for path in LABELS:
        for key, row in tomllib.loads(path.read_text(encoding="utf-8")).items():
            for vi, en in row.values() if isinstance(row, dict) else [row]:
                yield f"{path.relative_to(ROOT).as_posix()}, label {key!r}", "code", vi, en
    for path in sorted([*ROOT.glob("*.vi.md"), *ROOT.glob("docs/**/*.vi.md"), *ROOT.glob("tools/**/*.vi.md")]):
        yield path.relative_to(ROOT).as_posix(), "pages", path.read_text(encoding="utf-8"), None


def _found(pattern, text, where):
    """`where` with the line, and what was found there, for each match."""
    return [
        (f"{where}, line {1 + text.count(chr(10), 0, found.start())}", found) for found in re.finditer(pattern, text)
    ]


@functools.cache
def _words(*phrases, ending=""):
    """Any of some phrases as whole words, on one line or over two; the longest first."""
    spaced = (r"\s+".join(map(re.escape, phrase.split())) for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(spaced)}){ending}(?!\w)", re.IGNORECASE)


def wrong_words(data, where, kind, text):
    """What in a text is on the lists `avoid` and `spelling`, or has its tone on the wrong vowel."""
    rules = {
        word.casefold(): f"the glossary has {term['vi']!r} for {term['en']}"
        for term in terms(data)
        for word, notebooks_only in _avoided(term).items()
        if kind != "pages" or not notebooks_only
    }
    rules |= {word: f"write {row['write']}: {row['example']}" for row in data["spelling"] for word in row["never"]}
    text, problems = prose(text), []
    for at, found in _found(_words(*rules), text, where):
        word = " ".join(found.group().split()).casefold()
        problems.append(f"{at}: {word!r}: {rules[word]}")
    for at, found in _found(PATTERNS["tone"], text, where):
        problems.append(f"{at}: {found.group()!r}: the tone stands on the first vowel (hóa, tùy)")
    return problems


def wrong_glosses(data, where, kind, text):
    """English in brackets after another Vietnamese term than the glossary's, as in "lần chạy xuôi (forward pass)".

    In a notebook, English in brackets that the glossary does not know is wrong too.
    """
    known = {name: term for term in terms(data) for name in names(term, "en")}
    text, problems = prose(text), []
    for at, found in _found(PATTERNS["gloss"], text, where):
        english = found["english"] or found["capitals"]
        before = " ".join(text[max(0, found.start() - 100) : found.start()].split()).strip("*_ ")
        term = known.get(english.casefold())
        if term is None:
            if kind == "notebooks" and found["english"]:
                problems.append(f"{at}: ({english}) is not in docs/glossary.yml")
        elif term["vi"] != term["en"] and not before.casefold().endswith(tuple(names(term, "vi"))):
            words = " ".join(before.split()[-5:])
            problems.append(f"{at}: '… {words} ({english})': the glossary has {term['vi']!r}")
    return problems


def missing_terms(data, where, vi, en):
    """Terms that the English text uses, and its Vietnamese partner does not under any name of theirs."""
    vi, en = prose(vi), re.split(r"^## References", prose(en), flags=re.MULTILINE)[0]
    missing = []
    for term in sorted(terms(data), key=lambda term: -len(term["en"])):  # "early layer" before "layer"
        for name in names(term, "en"):
            en, times = _words(name, ending="(?:s|es)?").subn("·", en)
            if times and not term.get("everyday") and not any(_words(known).search(vi) for known in names(term, "vi")):
                missing.append(f"{where}: {name!r} in English, but no {term['vi']!r} in Vietnamese")
    return missing


def missing_glosses(data, where, text):
    """Terms that a Vietnamese notebook uses for the first time without the English name in brackets near them."""
    text = " ".join(re.sub(r"^#.*$", "", prose(text), flags=re.MULTILINE).split())  # a heading is too short for it
    rest, missing = text, []
    for term in sorted(terms(data), key=lambda term: -len(term["vi"])):
        use = _words(term["vi"]).search(rest)  # "trừ trung bình chung" is no use of "trừ trung bình"
        # Its first word stays: "tầng nông" is a use of "tầng".
        rest = _words(term["vi"]).sub(lambda found: re.sub(r"(?<=\s)\S", "·", found.group()), rest)
        if use and term.get("first"):
            near = text[max(0, use.start() - 30) : use.end() + 45].casefold()
            if not any(re.search(rf"\([^()]*\b{re.escape(name)}\b", near) for name in names(term, "en")):
                missing.append(f"{where}: the first {term['vi']!r} lacks ({term['en']}): '{near}'")
    return missing


def problems_of(data, where, kind, text):
    """What is wrong with one Vietnamese text, one line each."""
    if not unicodedata.is_normalized("NFC", text):
        return [f"{where}: holds decomposed characters: save it in NFC"]
    found = wrong_words(data, where, kind, text) + wrong_glosses(data, where, kind, text)
    allowed = [row for row in data["exceptions"] if where.startswith(row["in"])]
    return [line for line in found if not any(repr(row["text"]) in line for row in allowed)]


def problems(data):
    """Everything: pages that are not what the data gives, and texts that do not keep to the glossary."""
    old = stale(PAGES, functools.partial(page, data))
    found = [f"docs/{path.name}: is not what glossary.yml gives: run python -m tools.glossary" for path in old]
    for where, kind, vi, en in texts():
        found += problems_of(data, where, kind, vi) + (missing_terms(data, where, vi, en) if en else [])
    for path in sources():
        found += missing_glosses(data, path.stem, "\n".join(course.texts(path, "vi")))
    return found


def check():
    found = problems(load())
    print("\n".join(found) or "pages and texts keep to the glossary")
    sys.exit(bool(found))


def main():
    command(__doc__, **{"": lambda: rewrite(PAGES, functools.partial(page, load())), "--check": check})


if __name__ == "__main__":
    main()
