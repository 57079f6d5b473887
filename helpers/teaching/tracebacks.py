"""What Jupyter shows of an error that `helpers` raises on purpose: the reader's own lines, and the sentence."""

import dis
import sys
from pathlib import Path
from types import TracebackType

HELPERS = str(Path(__file__).parents[1])
KINDS = ValueError, TypeError, OSError, RuntimeError


def shorten():
    """From now on leave out all frames but the reader's own, where a `raise` in `helpers` was the last thing to happen.

    Everything else keeps its whole traceback, as does Python outside IPython; `%tb` shows the whole one afterwards.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or set(KINDS) <= set(shell.custom_exceptions):
        return
    earlier, show_earlier = shell.custom_exceptions, shell.CustomTB  # Colab has its own way with ImportError

    def show(shell, kind, error, frames, tb_offset=None):
        if isinstance(error, earlier):
            return show_earlier(kind, error, frames, tb_offset=tb_offset)
        own = _only(shell.user_global_ns, frames) if _on_purpose(frames) else None
        if own is None:
            return shell.showtraceback((kind, error, frames), tb_offset=tb_offset, running_compiled_code=True)
        cause, context, suppressed = error.__cause__, error.__context__, error.__suppress_context__
        error.__cause__ = error.__context__ = None
        shell.showtraceback((kind, error, own), tb_offset=0)
        error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppressed
        sys.last_traceback = frames

    shell.set_custom_exc((*earlier, *KINDS), show)


def _on_purpose(frames):
    """Whether the innermost frame stands in `helpers`, and at a `raise`."""
    while frames.tb_next:
        frames = frames.tb_next
    code = frames.tb_frame.f_code
    return code.co_filename.startswith(HELPERS) and code.co_code[frames.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _only(namespace, frames):
    """Those frames that run code of this namespace, or None."""
    if frames is None:
        return None
    rest = _only(namespace, frames.tb_next)
    own = frames.tb_frame.f_globals is namespace
    return TracebackType(rest, frames.tb_frame, frames.tb_lasti, frames.tb_lineno) if own else rest
