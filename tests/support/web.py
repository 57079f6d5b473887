"""What a browser complains about and asks for, and a file server for it."""

from functools import partial
from http.server import SimpleHTTPRequestHandler

from tests.support.server import listening


def watch(page):
    """Two lists that fill while a page of Playwright is used: what went wrong, and the addresses asked for."""
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    # what was still on its way when the next page was opened is no failure; what is missing answers 404
    page.on("requestfailed", lambda failed: complaints.append(failed.url) if "ABORTED" not in failed.failure else None)
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    return complaints, requests


def served(folder):
    """Address of a plain file server on `folder`."""
    return listening(partial(SimpleHTTPRequestHandler, directory=folder))
