"""Hooks on the modules of a model that are off again whatever happens, and that say so when they were not called."""

from contextlib import AbstractContextManager
from threading import get_ident

import torch

from helpers.settings import message
from helpers.text import shortened


class Hooks(AbstractContextManager):
    """Hooks that act in the thread that makes them, until their block ends; always written `with hooks, hooks:`.

    Twice, so that one KeyboardInterrupt at any moment, in the clean-up too, leaves none.  Meanwhile compiled modules
    run as they were written: what is compiled calls no hook that came later.
    """

    _on, _usual = set(), []  # of all threads: hooks that are on, and PyTorch's stance without them

    def __init__(self):
        self._thread, self._elsewhere, self._fired = get_ident(), False, {}

    def put(self, module, function, *, before=False):
        """After (or before) each run of a module: `function(module, args, kwargs, output)` (no output before it)."""

        def hook(called, *inputs):  # a copy of the module, too, as long as the block lasts
            if get_ident() != self._thread or self not in self._on:
                self._elsewhere = True
                return None
            self._fired[module, hook] += 1
            return function(called, *inputs)

        self._on.add(self)
        self._run_uncompiled()
        self._fired[module, hook] = 0
        hooks, with_kwargs = _tables(module, "pre_hooks" if before else "hooks")
        with_kwargs[id(hook)] = True
        hooks[id(hook)] = hook  # not register_forward_hook: it gives two threads at a time the same number

    def __exit__(self, *error):
        for module, hook in self._fired:
            for table in (*_tables(module, "hooks"), *_tables(module, "pre_hooks")):
                table.pop(id(hook), None)
        self._on.discard(self)
        for usual in () if self._on else self._usual[:1]:
            torch.compiler.set_stance(
                usual.stance, skip_guard_eval_unsafe=usual.skip_guard_eval_unsafe, force_backend=usual.backend
            )
            self._usual.clear()
            if self._on:  # of another thread, meanwhile
                self._run_uncompiled()

    def _run_uncompiled(self):
        stance = torch._dynamo.eval_frame._stance
        if stance.stance != "force_eager":
            self._usual[:] = [stance]
        torch.compiler.set_stance("force_eager")

    def check_fired(self, times=None):
        """`RuntimeError` where a hook fired less often than `times`, or than the first of them did (None)."""
        fired = list(self._fired.values())
        if self._elsewhere and not any(fired):
            raise RuntimeError(message("other_thread"))
        times = fired[0] if times is None else times
        if silent := [type(module).__name__ for module, hook in self._fired if self._fired[module, hook] < times]:
            raise RuntimeError(message("not_called", n=len(silent), which=shortened(silent)))


def _tables(module, kind):
    """Where PyTorch keeps the hooks of a module: those that it calls, and which of them get the keyword arguments."""
    return getattr(module, f"_forward_{kind}"), getattr(module, f"_forward_{kind}_with_kwargs")
