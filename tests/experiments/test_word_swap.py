"""The swap of one word's offset against an experiment with hooks of its own, and against what notebook 09 stores."""

import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch

from helpers import capture_qkv, token_id_of
from helpers.experiments.word_swap import WordSlot
from tests.support.refusal import assert_refused
from tests.support.tiny import CAUSAL, EVERY, language_model, random_batch

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {
    "README.md": (
        ("unedited", "nothing"),
        ("offset swapped (K and V)", "**offset**"),
        ("deviations swapped (K and V)", "deviations"),
    ),
    "README.vi.md": (
        ("không can thiệp", "không"),
        ("hoán đổi độ dời (K và V)", "**độ dời**"),
        ("hoán đổi độ lệch (K và V)", "độ lệch"),
    ),
}
"""Lines of notebook 09 and rows of the page."""
POSITIONS = torch.tensor([3, 1, 1])


@pytest.fixture(scope="module", params=CAUSAL)
def model(request):
    return language_model(request.param)


def with_word(batch, positions, word):
    ids = batch["input_ids"].clone()
    ids[torch.arange(len(ids)), positions] = word
    return {"input_ids": ids, "attention_mask": batch["attention_mask"]}


def after_word(values, positions, lengths):
    """What stands at the tokens after the word, but for the last, of each sentence: a list of `[token, ...]`."""
    places = zip(values, positions.tolist(), lengths.tolist(), strict=True)
    return [row[place + 1 : length - 1] for row, place, length in places]


@pytest.fixture
def slot(model):
    return WordSlot(model, random_batch(), POSITIONS)


def test_predictions_are_those_of_the_whole_model_on_whole_sentences(model, slot):
    batch = random_batch()

    def expected(word):
        with torch.no_grad():
            log_p = model(**with_word(batch, POSITIONS, word)).logits.double().log_softmax(dim=-1)
        return after_word(log_p, POSITIONS, batch["attention_mask"].sum(dim=1))

    p, q, found = expected(5), expected(9), slot.predict(5)
    assert torch.allclose(found.double(), torch.cat(p), atol=1e-4)
    kl = torch.stack([(a.exp() * (a - b)).sum(-1).mean() for a, b in zip(p, q, strict=True)])
    assert torch.allclose(slot.kl(found, slot.predict(9)), kl, atol=1e-4)


def test_whole_k_and_v_of_another_word_give_its_predictions(slot):
    vectors = slot.capture(9)
    patched = slot.predict(5, K=vectors["K"], V=vectors["V"])
    assert float(slot.kl(slot.predict(9), patched).abs().max()) < 1e-5
    assert float(slot.kl(slot.predict(9), slot.predict(5)).min()) > 1e-3
    assert float(slot.kl(slot.predict(9), slot.predict(5, V=vectors["V"])).min()) > 1e-4  # K is needed too


def test_captured_vectors_are_those_of_the_projections(model, slot):
    qkv = capture_qkv(model, with_word(random_batch(), POSITIONS, 9), positions=POSITIONS)
    for part, vectors in slot.capture(9).items():
        assert torch.allclose(vectors, getattr(qkv, part.lower()), atol=1e-4)
    with pytest.raises(IndexError):
        slot.predict(5, K=torch.zeros(0, 3, 1))
    assert not any(module._forward_hooks for module in model.modules())  # nothing is left, even after an error


def test_word_that_stands_first_or_that_nothing_follows_is_refused():
    model, batch = language_model("gpt2"), random_batch()
    first = partial(WordSlot, model, batch, torch.tensor([3, 0, 1]))
    assert_refused(first, ValueError, "the word stands first in sentences 1, so nothing precedes it")
    slot = WordSlot(model, batch, torch.tensor([3, 1, 2]))
    assert_refused(partial(slot.predict, 5), ValueError, "two tokens must follow the word, not so in sentences 2:")


@pytest.mark.parametrize(("name", "window"), [("bloom", 0), ("gpt_neo", 3), ("gpt_neo", 10), ("phi3", 3)])
def test_attention_that_counts_tokens_in_between_is_refused(name, window, monkeypatch):
    """Distances that are added to the scores, a window over the row (even if long), a window within a sentence."""
    monkeypatch.setattr(EVERY[name].config, "window_size", window, raising=False)
    message = f"the architecture '{name}' gives other results where all sentences lie in one row"
    assert_refused(partial(WordSlot, language_model(name), random_batch(), POSITIONS), ValueError, message)


def test_padding_on_the_left_and_a_head_of_its_own_change_nothing(slot, model):
    batch, order = random_batch(), random_batch()["attention_mask"].argsort(dim=1, stable=True)
    left = {key: value.gather(1, order) for key, value in batch.items()}
    moved = WordSlot(model, left, POSITIONS + torch.tensor([0, 3, 5]))
    assert torch.allclose(moved.predict(5), slot.predict(5), atol=1e-4)
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, logits: 0.5 * logits.tanh())
    try:
        with torch.no_grad():
            log_p = model(**with_word(batch, POSITIONS, 5)).logits.log_softmax(dim=-1)
        expected = after_word(log_p, POSITIONS, batch["attention_mask"].sum(dim=1))
        assert torch.allclose(moved.predict(5, K=slot.capture(5)["K"]), torch.cat(expected), atol=1e-4)
    finally:
        handle.remove()


def run(model, batch, positions, word, new=None):
    """By hooks of its own: (hidden states after the word, {projection: `[layer, sentence, feature]` at the word}).

    `new` is written into the k_proj and v_proj of every layer there.
    """
    at, seen, hooks = (torch.arange(len(positions)), positions), {"k_proj": [], "v_proj": []}, ExitStack()

    def hook(name, layer, module, args, output):
        if new is not None:
            output = output.clone()
            output[at] = new[name][layer]
        seen[name].append(output[at].clone())
        return output

    with torch.no_grad(), hooks:
        for layer, block in enumerate(model.model.layers):
            for name in seen:
                handle = getattr(block.self_attn, name).register_forward_hook(partial(hook, name, layer))
                hooks.callback(handle.remove)
        hidden = model.model(**with_word(batch, positions, word)).last_hidden_state
    after = after_word(hidden, positions, batch["attention_mask"].sum(dim=1))
    return after, {name: torch.stack(vectors) for name, vectors in seen.items()}


def kl(model, goal, found):
    """KL(goal || found) after the word, mean over tokens, then over sentences."""
    with torch.no_grad():
        p, q = ([model.lm_head(rows).double().log_softmax(-1) for rows in of] for of in (goal, found))
    return float(torch.stack([(a.exp() * (a - b)).sum(-1).mean() for a, b in zip(p, q, strict=True)]).mean())


def stored_table(language):
    """{name of the edit: {word: KL}} as notebook 09 printed it."""
    notebook = nbformat.read(ROOT / "notebooks" / language / "09_what_the_offset_does.ipynb", as_version=4)
    text = "".join(
        o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stdout"
    )
    head = re.search(r"^ +him +his .*$", text, re.MULTILINE)
    words = head.group().split()
    rows = {}
    for line in text[head.end() + 1 :].splitlines():
        figures = re.search(rf"((?: +-?\d+\.\d{{3}}){{{len(words)}}})$", line)
        if not figures:
            break
        rows[line[: figures.start()].strip()] = dict(zip(words, map(float, figures.group().split()), strict=True))
    return rows


def test_swap_stored_and_in_the_readme_comes_out_of_hooks_of_its_own(smollm2, her_batch, her_positions):
    """Even sentences for the means, up to the word; odd ones measured."""
    model, words = smollm2[0], [token_id_of(smollm2[1], word) for word in (" her", " him")]
    even, odd = her_positions[::2], her_positions[1::2]
    before, whole = ({k: v[start::2] for k, v in her_batch.items()} for start in (0, 1))
    before = {key: value[:, : int(even.max()) + 1] for key, value in before.items()}
    her, him = (run(model, before, even, word)[1] for word in words)
    shift = {name: (him[name] - her[name]).mean(dim=1, keepdim=True) for name in her}
    (plain, mine), (goal, theirs) = (run(model, whole, odd, word) for word in words)
    offset = run(model, whole, odd, words[0], {name: mine[name] + shift[name] for name in shift})[0]
    deviation = run(model, whole, odd, words[0], {name: theirs[name] - shift[name] for name in shift})[0]
    expected = [kl(model, goal, found) for found in (plain, offset, deviation)]
    for page, lines in SHOWN.items():
        rows, text = stored_table("vi" if ".vi" in page else "en"), (ROOT / page).read_text(encoding="utf-8")
        assert [rows[line]["him"] for line, _ in lines] == pytest.approx(expected, abs=0.002), page
        for line, name in lines:
            (cells,) = re.findall(rf"^\| {re.escape(name)} \|(.+)\|$", text, re.MULTILINE)
            found = [float(cell.replace(",", ".")) for cell in cells.replace("*", "").split("|")]
            assert found == pytest.approx(list(rows[line].values()), abs=0.006), (page, line)
