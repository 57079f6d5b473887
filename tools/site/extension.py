"""What Sphinx is told beyond its settings: docstrings, links into the repository, ids of headings, one search."""

import re

from docutils import nodes


def plain_docstring(app, what, name, obj, options, lines):
    """Make reStructuredText of a docstring that is plain text with `code`, lists and indented examples."""
    # A first line that shows as nothing keeps napoleon from reading "words: more words" of an attribute as its type.
    result, literal, doctest = ["\\"] * (what in ("attribute", "data", "property")), None, False
    for line in lines:
        text, indent = line.lstrip(), _indent(line)
        if literal is not None and text and indent < literal:
            literal = None
            result += [""] * bool(result[-1].strip())
        doctest = bool(text) and (doctest or text.startswith(">>>"))
        if not text or doctest or literal is not None:
            result.append(line)
            continue
        above = next((known for known in reversed(result) if known.strip()), "")
        apart = bool(result) and not result[-1].strip()
        if above and indent >= _indent(above) + 4 and (apart or what == "module"):  # an example
            literal = indent
            result += ["", " " * _indent(above) + "::", "", line]
            continue
        item = 0 if apart else _item(result)  # column of the text of the list item that this line follows
        if (
            result
            and result[-1] != "\\"
            and not apart
            and (item and indent < item if not text.startswith("- ") else not item)
        ):
            result.append("")
        result.append(" " * indent + _escaped(text))
    lines[:] = result


def _indent(line):
    return len(line) - len(line.lstrip())


def _item(lines):
    """Column of the text of the list item that `lines` end in, or 0."""
    for line in reversed(lines):
        if not line.strip():
            return 0
        if line.lstrip().startswith("- "):
            return _indent(line) + 2
    return 0


def _escaped(text):
    """`code` as a literal; outside of it *, | and a trailing _ mean themselves."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"[*|\\]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    after = [re.match(r"\w", part) for part in parts[2::2]]
    parts[1::2] = [f"`{part}`" + "\\ " * bool(joined) for part, joined in zip(parts[1::2], after)]
    return "".join(parts)


def skip_member(app, what, name, obj, skip, options):
    """The fields of a NamedTuple come with docstrings that say nothing."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def places_in_the_repository(app, doctree):
    """Links to what is no page: into the repository where its address is known, else plain words."""
    address = app.config.html_context["tree"]
    for link in list(doctree.findall(nodes.reference)):
        scheme, _, path = link.get("refuri", "").partition(":")
        if scheme == "repo" and address:
            link["refuri"] = f"{address}/{path}"
        elif scheme == "repo":
            link.replace_self(link.children)


def dashes(app, doctree, docname):
    """Between a parameter and its description Sphinx puts two hyphens, and makes a dash of them in some languages."""
    for body in doctree.findall(nodes.field_body):
        for text in list(body.findall(nodes.Text)):
            if str(text) == " -- ":
                text.parent.replace(text, nodes.Text(" – "))


def heading_ids(app, doctree, docname):
    """An id on each heading itself: the search leads to headings, and Sphinx gives ids to sections."""
    for section in doctree.findall(nodes.section):
        section.next_node(nodes.title)["ids"].append(f"to-{section['ids'][0]}")


def no_second_search(app):
    """Pagefind searches; Sphinx's own index would need the exact diacritics."""
    app.builder.search = False


def setup(app):
    app.connect("builder-inited", no_second_search)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_member)
    app.connect("doctree-read", places_in_the_repository)
    app.connect("doctree-resolved", heading_ids)
    app.connect("doctree-resolved", dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
