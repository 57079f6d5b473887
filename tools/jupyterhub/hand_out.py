"""Copies that belong to a reader: brought up to date until the reader changes them, then left alone.

Standard library only, and no import from `tools`: a hub runs it for every student.
"""

import hashlib
import json
from pathlib import Path

RECORD = ".handed_out.json"  # {name of a copy: SHA-256 of what was written there}


class Copies:
    """A folder of copies, with a record that tells what was written there from what a reader made of it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        try:
            self.written = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.written = {}

    def is_the_readers(self, name):
        """Whether a file is there that was changed since it was written, or was never written from here."""
        copy = self.folder / name
        return copy.exists() and self.written.get(name) != hashlib.sha256(copy.read_bytes()).hexdigest()

    def write(self, name, content):
        """Put bytes at `name`, whole or not at all, over a copy that no reader has changed."""
        copy = self.folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        self.written[name] = hashlib.sha256(content).hexdigest()
        for path, data in ((copy, content), (self.folder / RECORD, json.dumps(self.written, indent=1).encode())):
            part = path.with_name(path.name + ".part")
            part.write_bytes(data)
            part.replace(path)


def without_outputs(path):
    """The bytes of a notebook with no answers in it: what a prediction is about should not stand below it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return (json.dumps(notebook, ensure_ascii=False, indent=1) + "\n").encode()


def hand_out(notebooks, folder):
    """Copy into `folder`, without outputs, what it lacks of `notebooks`/vi and /en or has in an older, unchanged copy.

    Returns the names of those left alone because the reader has changed them.

    Raises:
        FileNotFoundError: there is none to hand out.
    """
    found = [path for language in ("vi", "en") for path in sorted((Path(notebooks) / language).glob("*.ipynb"))]
    if not found:
        raise FileNotFoundError(f"{notebooks} has no vi/*.ipynb or en/*.ipynb")
    copies, kept = Copies(folder), []
    for source in found:
        name, content = f"{source.parent.name}/{source.name}", without_outputs(source)
        if copies.is_the_readers(name):
            kept.append(name)
        elif not (copies.folder / name).exists() or (copies.folder / name).read_bytes() != content:
            copies.write(name, content)
    return kept
