"""The swap of one word's offset against an experiment with hooks of its own, and against what notebook 09 stores."""

import re
from pathlib import Path

import nbformat
import pytest
import torch

from helpers import capture_qkv, encode, find_token, load_sentences, token_id_of
from helpers.experiments.word_swap import WordSlot
from tests.core.test_capture import random_batch
from tests.experiments.test_interventions import CAUSAL, language_model

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {" him": (0.275, 0.052, 0.249), " water": (1.033, 0.206, 0.907)}
"""KL unedited, with the offset and with the deviations swapped, as two independent programs found them."""


# ---- small random models: every architecture, every position -------------------------------------


@pytest.fixture(scope="module", params=CAUSAL)
def model(request):
    return language_model(request.param)


def with_word(batch, positions, word):
    ids = batch["input_ids"].clone()
    ids[torch.arange(len(ids)), positions] = word
    return {"input_ids": ids, "attention_mask": batch["attention_mask"]}


def log_probabilities(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits.double().log_softmax(dim=-1)


POSITIONS = torch.tensor([3, 1, 1])


@pytest.fixture
def slot(model):
    return WordSlot(model, random_batch(), POSITIONS)


def test_predictions_are_those_of_the_whole_model_on_the_whole_sentences(model, slot):
    batch, found = random_batch(), slot.predict(5)
    whole = log_probabilities(model, with_word(batch, POSITIONS, 5))
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    expected = [whole[s, p + 1 : n - 1] for s, (p, n) in enumerate(zip(POSITIONS.tolist(), lengths, strict=True))]
    assert torch.allclose(found.double(), torch.cat(expected), atol=1e-4)
    other = log_probabilities(model, with_word(batch, POSITIONS, 9))
    kl = [(a.exp() * (a - other[s, p + 1 : n - 1])).sum(-1).mean() for s, (a, p, n) in enumerate(zip(expected, POSITIONS.tolist(), lengths, strict=True))]  # fmt: skip
    assert torch.allclose(slot.kl(found, slot.predict(9)), torch.stack(kl), atol=1e-4)


def test_the_whole_k_and_v_of_another_word_give_its_predictions_exactly(slot):
    vectors = slot.capture(9)
    patched = slot.predict(5, K=vectors["K"], V=vectors["V"])
    assert float(slot.kl(slot.predict(9), patched).abs().max()) < 1e-5
    assert float(slot.kl(slot.predict(9), slot.predict(5)).min()) > 1e-3
    assert float(slot.kl(slot.predict(9), slot.predict(5, V=vectors["V"])).min()) > 1e-4  # K is needed too


def test_captured_vectors_are_those_of_the_projections(model, slot):
    qkv = capture_qkv(model, with_word(random_batch(), POSITIONS, 9), positions=POSITIONS)
    for part, vectors in slot.capture(9).items():
        assert torch.allclose(vectors, getattr(qkv, part.lower()), atol=1e-4)


def test_nothing_is_left_in_the_model_even_after_an_error(model, slot):
    with pytest.raises(IndexError):
        slot.predict(5, K=torch.zeros(0, 3, 1))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_word_that_stands_first_or_that_nothing_follows_is_refused():
    model, batch = language_model("gpt2"), random_batch()
    with pytest.raises(ValueError, match=r"the word stands first in sentences \[1\]"):
        WordSlot(model, batch, torch.tensor([3, 0, 1]))
    slot = WordSlot(model, batch, torch.tensor([3, 1, 2]))
    assert slot.capture(5)["K"].shape == (3, 3, 32)
    with pytest.raises(ValueError, match=r"two tokens must follow the word, not so in sentences \[2\]"):
        slot.predict(5)


# ---- SmolLM2, with hooks of its own --------------------------------------------------------------


class Patch:
    """Write given outputs into the k_proj and v_proj of every layer, at one token of each sentence."""

    def __init__(self, model, rows, positions, keys=None, values=None):
        self.handles, self.seen = [], {"k_proj": [], "v_proj": []}
        for layer, block in enumerate(model.model.layers):
            for name, new in (("k_proj", keys), ("v_proj", values)):
                handle = getattr(block.self_attn, name).register_forward_hook(
                    self.hook(name, new, layer, rows, positions)
                )
                self.handles.append(handle)

    def hook(self, name, new, layer, rows, positions):
        def write(module, args, output):
            if new is None:
                self.seen[name].append(output[rows, positions].clone())
                return None
            output = output.clone()
            output[rows, positions] = new[layer]
            return output

        return write

    def __enter__(self):
        return self.seen

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


def swapped_kls(model, batch, positions, her, other):
    """KL unedited, offset swapped, deviations swapped: even sentences for the means, odd ones measured."""
    even, odd = (slice(start, None, 2) for start in (0, 1))
    ids = torch.arange(len(positions))

    def inputs(half, word):
        tokens = batch["input_ids"][half].clone()
        tokens[torch.arange(len(tokens)), positions[half]] = word
        return {"input_ids": tokens, "attention_mask": batch["attention_mask"][half]}

    def run(half, word, **new):
        rows = torch.arange(len(ids[half]))
        with Patch(model, rows, positions[half], **new) as seen:
            p = log_probabilities(model, inputs(half, word))
        return p, {name: torch.stack(vectors) for name, vectors in seen.items() if vectors}

    (_, her_even), (_, other_even) = run(even, her), run(even, other)
    (plain, her_odd), (goal, other_odd) = run(odd, her), run(odd, other)
    shift = {name: other_even[name].mean(1, keepdim=True) - her_even[name].mean(1, keepdim=True) for name in her_even}
    offset = run(odd, her, keys=her_odd["k_proj"] + shift["k_proj"], values=her_odd["v_proj"] + shift["v_proj"])[0]
    deviation = run(odd, her, keys=other_odd["k_proj"] - shift["k_proj"], values=other_odd["v_proj"] - shift["v_proj"])[
        0
    ]
    lengths = batch["attention_mask"][odd].sum(dim=1)

    def kl(q):
        each = (goal.exp() * (goal - q)).sum(dim=-1)
        parts = [
            e[p + 1 : n - 1].mean() for e, p, n in zip(each, positions[odd].tolist(), lengths.tolist(), strict=True)
        ]
        return float(torch.stack(parts).mean())

    return kl(plain), kl(offset), kl(deviation)


@pytest.fixture(scope="module")
def oracle(smollm2, her_batch, her_positions):
    model, tokenizer = smollm2
    her = token_id_of(tokenizer, " her")
    return {w: swapped_kls(model, her_batch, her_positions, her, token_id_of(tokenizer, w)) for w in MEASURED}


@pytest.mark.parametrize("word", MEASURED)
def test_the_figures_of_the_review_come_out_of_an_experiment_with_its_own_hooks(oracle, word):
    assert oracle[word] == pytest.approx(MEASURED[word], abs=0.002)


def test_the_slot_agrees_with_those_hooks(smollm2, oracle):
    model, tokenizer = smollm2
    sentences, her, him = load_sentences("her"), token_id_of(tokenizer, " her"), token_id_of(tokenizer, " him")
    batches = [encode(tokenizer, sentences[start::2]) for start in (0, 1)]
    means, measured = (WordSlot(model, batch, find_token(batch, her)) for batch in batches)
    mine, other, x, theirs = (slot.capture(word) for slot in (means, measured) for word in (her, him))
    shift = {part: (other[part] - mine[part]).mean(dim=1, keepdim=True) for part in "KV"}
    goal = measured.predict(him)
    found = [
        measured.kl(goal, measured.predict(her)),
        measured.kl(goal, measured.predict(her, **{part: x[part] + shift[part] for part in "KV"})),
        measured.kl(goal, measured.predict(her, **{part: theirs[part] - shift[part] for part in "KV"})),
    ]
    assert [float(kl.mean()) for kl in found] == pytest.approx(oracle[" him"], abs=1e-3)


# ---- what is stored and what the READMEs say -----------------------------------------------------


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


@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_stored_notebook_has_the_figures_of_those_hooks(language, oracle):
    rows = stored_table(language)
    keys = {
        "en": ("unedited", "offset swapped (K and V)", "deviations swapped (K and V)"),
        "vi": ("không can thiệp", "hoán đổi độ dời (K và V)", "hoán đổi độ lệch (K và V)"),
    }[language]
    for word, figures in oracle.items():
        assert [rows[key][word.strip()] for key in keys] == pytest.approx(figures, abs=0.02)


@pytest.mark.parametrize(("page", "language"), [("README.md", "en"), ("README.vi.md", "vi")])
def test_the_table_of_the_swap_in_the_readme_is_that_of_the_notebook(page, language):
    rows = stored_table(language)
    text = (ROOT / page).read_text(encoding="utf-8")
    names = {
        "en": {"unedited": "unedited", "**offset swapped**": "offset swapped (K and V)", "deviations swapped": "deviations swapped (K and V)"},
        "vi": {"không can thiệp": "không can thiệp", "**hoán đổi độ dời**": "hoán đổi độ dời (K và V)", "hoán đổi độ lệch": "hoán đổi độ lệch (K và V)"},
    }[language]  # fmt: skip
    for shown, name in names.items():
        (line,) = re.findall(rf"^\| {re.escape(shown)} \|(.+)\|$", text, re.MULTILINE)
        found = [float(cell.replace(",", ".")) for cell in line.replace("*", "").split("|")]
        assert found == pytest.approx(list(rows[name].values()), abs=0.006)
