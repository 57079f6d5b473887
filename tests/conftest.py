"""What every test shares: the model that needs no hub, and the captured sentences."""

import os

# Before torch is imported; the kernels that nbval starts inherit both.
os.environ.setdefault("QKV_MODEL", "smollm2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def smollm2():
    """(model, tokenizer) of SmolLM2 on the CPU.  Shared: leave both as they are."""
    from helpers import load_model

    return load_model("smollm2", device="cpu")


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
