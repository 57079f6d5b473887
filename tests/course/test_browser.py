"""A reader's JupyterLab: open notebook 02, run it, move the slider with the keyboard, see the figure follow."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
import torch

from helpers import set_language
from helpers.teaching.widgets import offset_explorer
from tests.support.hub import free_ports
from tools.course import ROOT

HERE, ARTIFACTS = ROOT / "tests" / "course", ROOT / "tests" / "artifacts"
LANGUAGE = "vi"  # the code of the notebook and of the widgets is the same in both
NOTEBOOK = "02_cosine_and_correlation.ipynb"


def wait_until(what, condition, seconds=60):
    """Poll `condition` until it returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.2)
    return result


@pytest.fixture
def lab(tmp_path):
    """Address of the notebook in a JupyterLab on a copy of all, with no question about news, and every cell in the page."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "config" / "labconfig").mkdir(parents=True)
    shutil.copy(HERE / "jupyterlab.json", tmp_path / "config" / "labconfig" / "default_setting_overrides.json")
    own = {f"JUPYTER_{kind.upper()}_DIR": str(tmp_path / kind) for kind in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyter", "lab", "--allow-root", "--no-browser", "--expose-app-in-browser"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={free_ports(1)[0]}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={tmp_path / 'notebooks'}"]
    log = tmp_path / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=output, stderr=output)

    def started():
        assert server.poll() is None, log.read_text()[-3000:]
        return next((tmp_path / "runtime").glob("jpserver-*.json"), None)

    try:
        told = json.loads(wait_until("JupyterLab has started", started).read_text(encoding="utf-8"))
        yield f"{told['url']}lab/tree/{LANGUAGE}/{NOTEBOOK}?token={told['token']}"
    finally:  # it stops its kernels
        server.terminate()
        server.wait(60)


@pytest.fixture
def page(browser, lab):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(60_000)
    page.add_init_script(path=HERE / "jupyterlab.js")
    page.goto(lab)
    yield page
    page.screenshot(path=ARTIFACTS / f"02-{LANGUAGE}.png")  # what it looked like, also after a failure


@pytest.fixture
def explorer():
    """The explorer of the notebook, made here by its own lines, in its language."""
    set_language(LANGUAGE)
    notebook = nbformat.read(ROOT / "notebooks" / LANGUAGE / NOTEBOOK, as_version=4)
    source = next(cell.source for cell in notebook.cells if cell.source.startswith("pair = "))
    names = {"torch": torch}
    exec("\n".join(line for line in source.splitlines() if line.startswith("pair = ")), names)  # noqa: S102
    return offset_explorer(names["pair"])


def test_a_reader_runs_notebook_02_and_the_figure_follows_the_slider(page, explorer):
    page.wait_for_function("window.asked.idle()")

    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    cells = page.evaluate("asked.cells()")
    assert len(cells) > 15 and all(cell["count"] is None and cell["outputs"] == [] for cell in cells)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    wait_until("every cell has run", lambda: all(cell["count"] for cell in page.evaluate("asked.cells()")), seconds=240)
    page.wait_for_function("window.asked.idle()")
    cells = page.evaluate("asked.cells()")
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any("error" in cell["outputs"] for cell in cells)

    shown = page.locator(".widget-vbox")
    parts = ("img.widget-image", ".widget-html span", ".noUi-handle")
    image, words, handle = (shown.locator(css) for css in parts)
    image.wait_for()
    handle.scroll_into_view_if_needed()
    assert shown.count() == image.count() == handle.count() == 1 and not shown.locator(".widget-readout").is_visible()

    def shows(value):
        """The slider, the words and the picture all belong to `value`."""
        explorer.selector.value = value
        return (
            float(handle.get_attribute("aria-valuenow")) == value
            and words.text_content() == re.sub("<.*?>", "", explorer.words.value)
            and base64.b64decode(image.evaluate("image => asked.picture(image)")) == explorer.image.value
        )

    wait_until("the explorer shows its first state", lambda: shows(2.0))
    handle.focus()
    for key, times, value in (("ArrowRight", 4, 3.0), ("ArrowLeft", 20, -2.0)):
        for _ in range(times):  # faster than it can draw: it may leave steps out, but not the last one
            page.keyboard.press(key)
        wait_until(f"the explorer shows {value}", lambda value=value: shows(value))
    page.wait_for_function("window.asked.idle()")
    assert shows(-2.0)  # and stays there
