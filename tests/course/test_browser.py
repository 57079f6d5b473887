"""A reader's JupyterLab: open notebook 02, run it, move the slider with the keyboard, see the figure follow."""

import base64
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from helpers import set_language
from helpers.teaching.widgets import offset_explorer

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "tests" / "artifacts"
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


def wait_until(what, condition, seconds=60, pause=0.2):
    """Poll `condition` until it returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds} s still not: {what}")
        time.sleep(pause)
    return result


def stop(server):
    """End the server and every kernel that it started (kernels have process groups of their own)."""
    family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for process in psutil.wait_procs(family, timeout=5)[1]:
        process.kill()
    psutil.wait_procs(family, timeout=5)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab on a copy of the notebooks, as a function of the path inside it."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "helpers", home / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(SETTINGS, encoding="utf-8")
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    own = {name: str(home / folder) for name, folder in (folders | {"IPYTHONDIR": "ipython"}).items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--allow-root", "--no-browser", "--expose-app-in-browser"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'notebooks'}"]

    def url(path):
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    def answers():
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with code {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(url("api/status"), timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=home, env=os.environ | own | {"PYTHONPATH": str(home)}, stdout=output, stderr=output
        )
        try:
            wait_until("JupyterLab answers", answers)
            yield url
        finally:
            stop(server)


@pytest.fixture
def page(browser, language):
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    ARTIFACTS.mkdir(exist_ok=True)
    if page.locator(".widget-slider").count():
        page.locator(".widget-slider").scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / f"02-{language}.png")  # what it looked like, also after a failure
    context.close()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def pair_of_the_notebook(language):
    """The two features that the notebook gives its explorer, made by its own lines."""
    notebook = nbformat.read(ROOT / "notebooks" / language / NOTEBOOK, as_version=4)
    source = next(cell.source for cell in notebook.cells if cell.source.startswith("pair = "))
    names = {"torch": torch}
    exec("\n".join(line for line in source.splitlines() if line.startswith("pair = ")), names)  # noqa: S102
    return names["pair"]


@pytest.mark.parametrize("language", ["vi", "en"])
def test_a_reader_runs_notebook_02_and_the_figure_follows_the_slider(lab, page, language):
    page.goto(lab(f"lab/workspaces/{language}/tree/{language}/{NOTEBOOK}"))  # a workspace holds the tabs left open
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

    explorer = page.locator(".widget-vbox")
    parts = ("img.widget-image", ".widget-html span", ".widget-readout", ".noUi-handle")
    image, words, readout, handle = (explorer.locator(css) for css in parts)
    image.wait_for()
    assert explorer.count() == image.count() == handle.count() == 1
    set_language(language)
    try:
        expected = offset_explorer(pair_of_the_notebook(language))
    finally:
        set_language("en")

    def shows(value):
        """The readout, the words and the pixels all belong to `value`."""
        expected.redraw(value)
        return (
            readout.inner_text() == f"{value:+.2f}".replace("-", "−")
            and words.text_content() == re.sub("<.*?>", "", expected.words.value)
            and np.array_equal(pixels(base64.b64decode(image.evaluate(PICTURE))), pixels(expected.image.value))
        )

    wait_until("the explorer shows its first state", lambda: shows(2.0))
    before = image.get_attribute("src")
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    wait_until("the explorer shows +3", lambda: shows(3.0))
    assert image.get_attribute("src") != before
    for _ in range(20):  # faster than it can draw: it may leave steps out, but not the last one
        page.keyboard.press("ArrowLeft")
    wait_until("the explorer shows -2", lambda: shows(-2.0))
    page.wait_for_function(IDLE)
    time.sleep(1)
    assert shows(-2.0)  # and stays there
