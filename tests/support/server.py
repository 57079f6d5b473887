"""A small HTTP server of our own."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def listening(handler):
    """Address of a server whose requests go to a handler of http.server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # a client that gives up is what some tests are about
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def serving(answer):
    """A server that calls `answer(handler)` on every request.  Yields (its address, the paths that were asked for)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer(self)

        do_HEAD = do_GET
        log_message = lambda *_: None

    with listening(Handler) as address:
        yield address, asked


def reply(code, content=b"", **headers):
    """An answer for `serving`."""

    def answer(handler):
        handler.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)

    return answer
