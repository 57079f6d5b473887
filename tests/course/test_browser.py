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

ARTIFACTS = ROOT / "tests" / "artifacts"
LANGUAGE = "vi"  # the code of the notebook and of the widgets is the same in both
NOTEBOOK = "02_cosine_and_correlation.ipynb"
# No question about news; every cell in the page, whether or not it is scrolled into view.
SETTINGS = """{
  "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false},
  "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .map(cell => ({count: cell.model.executionCount, outputs: cell.model.outputs.toJSON().map(o => o.output_type)}))"""
IDLE = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.sessionContext?.isReady && panel.sessionContext.session?.kernel?.status === 'idle';
}"""
PICTURE = """async image => {
  const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
  return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
}"""


def wait_until(what, condition, seconds=60):
    """Poll `condition` until it returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.2)
    return result


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab on a copy of the notebooks, as a function of the path inside it."""
    home = tmp_path
    shutil.copytree(ROOT / "helpers", home / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(SETTINGS, encoding="utf-8")
    own = {f"JUPYTER_{kind.upper()}_DIR": str(home / kind) for kind in ("config", "data", "runtime")}
    command = [sys.executable, "-m", "jupyter", "lab", "--allow-root", "--no-browser", "--expose-app-in-browser"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={free_ports(1)[0]}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={home / 'notebooks'}"]
    log, environment = home / "server.log", os.environ | own | {"IPYTHONDIR": str(home), "PYTHONPATH": str(home)}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=home, env=environment, stdout=output, stderr=output)

    def started():
        assert server.poll() is None, log.read_text()[-3000:]
        return next(((home / "runtime").glob("jpserver-*.json")), None)

    try:
        told = json.loads(wait_until("JupyterLab has started", started).read_text(encoding="utf-8"))
        yield lambda path: f"{told['url']}{path}?token={told['token']}"
    finally:  # it stops its kernels
        server.terminate()
        server.wait(60)


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    ARTIFACTS.mkdir(exist_ok=True)
    if page.locator(".widget-slider").count():
        page.locator(".widget-slider").scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / f"02-{LANGUAGE}.png")  # what it looked like, also after a failure


@pytest.fixture
def explorer():
    """The explorer of the notebook, made here by its own lines, in its language."""
    set_language(LANGUAGE)
    notebook = nbformat.read(ROOT / "notebooks" / LANGUAGE / NOTEBOOK, as_version=4)
    source = next(cell.source for cell in notebook.cells if cell.source.startswith("pair = "))
    names = {"torch": torch}
    exec("\n".join(line for line in source.splitlines() if line.startswith("pair = ")), names)  # noqa: S102
    yield offset_explorer(names["pair"])
    set_language("en")


def test_a_reader_runs_notebook_02_and_the_figure_follows_the_slider(lab, page, explorer):
    page.goto(lab(f"lab/tree/{LANGUAGE}/{NOTEBOOK}"))
    page.wait_for_function(IDLE)

    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    cells = page.evaluate(CELLS)
    assert len(cells) > 15 and all(cell["count"] is None and cell["outputs"] == [] for cell in cells)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    wait_until("every cell has run", lambda: all(cell["count"] for cell in page.evaluate(CELLS)), seconds=240)
    page.wait_for_function(IDLE)
    cells = page.evaluate(CELLS)
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any("error" in cell["outputs"] for cell in cells)

    shown = page.locator(".widget-vbox")
    parts = ("img.widget-image", ".widget-html span", ".widget-readout", ".noUi-handle")
    image, words, readout, handle = (shown.locator(css) for css in parts)
    image.wait_for()
    assert shown.count() == image.count() == handle.count() == 1

    def shows(value):
        """The readout, the words and the picture all belong to `value`."""
        explorer.redraw(value)
        return (
            readout.inner_text() == f"{value:+.2f}".replace("-", "−")
            and words.text_content() == re.sub("<.*?>", "", explorer.words.value)
            and base64.b64decode(image.evaluate(PICTURE)) == explorer.image.value
        )

    wait_until("the explorer shows its first state", lambda: shows(2.0))
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    wait_until("the explorer shows +3", lambda: shows(3.0))
    for _ in range(20):  # faster than it can draw: it may leave steps out, but not the last one
        page.keyboard.press("ArrowLeft")
    wait_until("the explorer shows -2", lambda: shows(-2.0))
    page.wait_for_function(IDLE)
    assert shows(-2.0)  # and stays there
