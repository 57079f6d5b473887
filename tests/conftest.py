"""What tests share: the model that needs no hub, the captured sentences, the languages, the browser."""

import gc
import os
import shutil
import sys
from importlib import import_module

# Before torch is imported; the kernels that nbval starts inherit both.
os.environ.setdefault("QKV_MODEL", "smollm2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_configure(config):
    if config.getoption("nbval", False):
        import nbval.plugin

        from tests.support.warm_kernel import WarmKernel

        nbval.plugin.RunningKernel = WarmKernel


def pytest_collection_finish():
    gc.freeze()  # what was imported is no garbage: the tests of slides, texts and figures take an eighth less


def helpers():
    """The module, imported by what needs it: torch alone takes seconds."""
    return import_module("helpers")


@pytest.fixture(scope="session")
def smollm2():
    """(model, tokenizer) of SmolLM2 on the CPU.  Shared: leave both as they are."""
    return helpers().load_model("smollm2", device="cpu")


@pytest.fixture(scope="session")
def minilm():
    """(model, tokenizer) of all-MiniLM-L6-v2, an encoder, on the CPU.  Shared: leave both as they are."""
    return helpers().load_model("minilm", device="cpu")


@pytest.fixture(scope="session")
def her_batch(smollm2):
    """The 54 sentences with " her", encoded for SmolLM2."""
    return helpers().encode(smollm2[1], helpers().load_sentences("her"))


@pytest.fixture(scope="session")
def her_positions(smollm2, her_batch):
    """Position of " her" in each sentence of `her_batch`, `[sentence]`."""
    return helpers().find_token(her_batch, helpers().token_id_of(smollm2[1], " her"))


@pytest.fixture(scope="session")
def her_qkv(smollm2, her_batch, her_positions):
    """Q, K and V of " her" in every layer of SmolLM2."""
    return helpers().capture_qkv(smollm2[0], her_batch, positions=her_positions)


@pytest.fixture(autouse=True)
def english_again():
    yield
    if "helpers" in sys.modules:
        helpers().set_language("en")


@pytest.fixture(params=["vi", "en"])
def language(request):
    """Each language once, set for what `helpers` says."""
    helpers().set_language(request.param)
    return request.param


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.fail(f"none of {', '.join(BROWSERS)} is on the PATH. On Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--disable-gpu", "--disable-quic"])
