"""What Sphinx is told beyond its settings: docstrings, links into the repository, ids of headings, one search."""

import re

from docutils import nodes


def plain_docstring(app, what, name, obj, options, lines):
    """Make reStructuredText of a docstring that is plain text with `code`, lists and indented examples."""
    # A first line that shows as nothing keeps napoleon from reading "words: more words" of an attribute as its type.
    result = ["\\"] * (what in ("attribute", "data", "property"))
    margin, item, example, doctest = 0, 0, False, False  # item: column of the text of a list item
    for line in lines:
        text, indent = line.lstrip(), len(line) - len(line.lstrip())
        doctest = bool(text) and (doctest or text.startswith(">>>"))
        if not text or doctest:
            item = 0
            result.append(line)
            continue
        if indent >= margin + 4 and (example or result and (what == "module" or not result[-1].strip())):
            result += [line] if example else ["", " " * margin + "::", "", line]
            example = True
            continue
        begins = text.startswith("- ")
        if example or (not item if begins else indent < item):
            result += [""] * (result not in ([], ["\\"]) and bool(result[-1].strip()))
            item = 0
        item = indent + 2 if begins else item
        margin, example = indent, False
        result.append(" " * indent + _escaped(text))
    lines[:] = result


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


def words_with_d(app, doctree, docname):
    """Each paragraph carries its words with đ once more, with d, in an empty element for the search.

    Pagefind finds ộ by o, but not đ by d, since Unicode does not take đ apart.  Before each such word stands an
    invisible sign, by which site.js leaves it out of what is shown.
    """
    for block in doctree.findall(lambda node: isinstance(node, (nodes.paragraph, nodes.title, nodes.term))):
        texts = (text for text in block.findall(nodes.Text) if not isinstance(text.parent, nodes.raw))
        words = set(re.findall(r"\w*đ\w*", "".join(texts).lower()))
        if words:
            with_d = " ".join(f"\u2063{word.replace('đ', 'd')}" for word in sorted(words))
            carried = f'<span data-pagefind-index-attrs="data-with-d" data-with-d="{with_d}"></span>'
            block += nodes.raw("", carried, format="html")


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
    app.connect("doctree-resolved", words_with_d)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
