"""What tests share: the model that needs no hub, the captured sentences, the languages, the browser."""

import os
import shutil

# Before torch is imported; the kernels that nbval starts inherit both.
os.environ.setdefault("QKV_MODEL", "smollm2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_configure(config):
    if config.getoption("nbval", False):
        import nbval.plugin

        from tests.support.warm_kernel import WarmKernel

        nbval.plugin.RunningKernel = WarmKernel


@pytest.fixture(scope="session")
def smollm2():
    """(model, tokenizer) of SmolLM2 on the CPU.  Shared: leave both as they are."""
    from helpers import load_model

    return load_model("smollm2", device="cpu")


@pytest.fixture(scope="session")
def minilm():
    """(model, tokenizer) of all-MiniLM-L6-v2, an encoder, on the CPU.  Shared: leave both as they are."""
    from helpers import load_model

    return load_model("minilm", device="cpu")


@pytest.fixture(scope="session")
def her_batch(smollm2):
    """The 54 sentences with " her", encoded for SmolLM2."""
    from helpers import encode, load_sentences

    return encode(smollm2[1], load_sentences("her"))


@pytest.fixture(scope="session")
def her_positions(smollm2, her_batch):
    """Position of " her" in each sentence of `her_batch`, `[sentence]`."""
    from helpers import find_token, token_id_of

    return find_token(her_batch, token_id_of(smollm2[1], " her"))


@pytest.fixture(scope="session")
def her_qkv(smollm2, her_batch, her_positions):
    """Q, K and V of " her" in every layer of SmolLM2."""
    from helpers import capture_qkv

    return capture_qkv(smollm2[0], her_batch, positions=her_positions)


@pytest.fixture(params=["vi", "en"])
def language(request):
    """Each language once, set for what `helpers` says."""
    from helpers import set_language

    set_language(request.param)
    yield request.param
    set_language("en")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.fail(f"none of {', '.join(BROWSERS)} is on the PATH. On Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
