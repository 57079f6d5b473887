"""Effects of edits against float64 NumPy, and the figures that show them."""

import copy

import numpy as np
import pytest
import torch
import transformers
from test_capture import FAMILIES, random_batch

from helpers import edit_qkv, load_ordinary
from helpers.capture import attention_layers
from helpers.checks import verdict
from helpers.interventions import effect, in_double, predict, real_tokens, resume_at
from helpers.plots_interventions import (
    mean_and_reach,
    plot_distance,
    plot_effect_depth,
    plot_effects,
    plot_layer_curves,
    plot_scaling,
    plot_smile_and_effect,
)

CAUSAL = [name for name, family in FAMILIES.items() if family.causal]


def language_model(name):
    torch.manual_seed(0)
    config = copy.deepcopy(FAMILIES[name].config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CAUSAL)
def model(request):
    return language_model(request.param)


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def double(values, positions):
    return 2 * values


def log_probabilities(model, batch):
    with torch.no_grad():
        logits = model(**batch).logits.double().numpy()
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_effect_equals_numpy_on_the_whole_logits(model, batch):
    plain = log_probabilities(model, batch)
    before = predict(model, batch)
    with edit_qkv(model, 1, "V", double):
        found = effect(model, batch, before)
        edited = log_probabilities(model, batch)
    for sentence, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        p, q = (x[sentence, : length - 1] for x in (plain, edited))
        following = batch["input_ids"][sentence, 1:length].numpy()
        at = np.arange(length - 1), following
        assert abs(float(found.delta_loss[sentence]) - (p[at] - q[at]).mean()) < 1e-5
        assert abs(float(found.kl[sentence]) - (np.exp(p) * (p - q)).sum(-1).mean()) < 1e-5
    assert float(found.kl.min()) > 1e-3


def test_no_edit_has_no_effect_at_all(model, batch):
    before = predict(model, batch)
    assert not effect(model, batch, before).kl.any() and not effect(model, batch, before).delta_loss.any()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_resuming_gives_the_same_effect_without_running_the_layers_below(model, batch, layer):
    before = predict(model, batch)
    ran = []
    handles = [m.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, m in enumerate(mlps(model))]
    with edit_qkv(model, layer, "Q", double):
        whole = effect(model, batch, before)
        ran.clear()
        with resume_at(model, layer, before):
            resumed = effect(model, batch, before)
    for handle in handles:
        handle.remove()
    assert torch.equal(whole.kl, resumed.kl) and torch.equal(whole.delta_loss, resumed.delta_loss)
    assert set(ran) == set(range(layer, 3))


def mlps(model):
    return [
        next(child for child in layer.children() if "norm" not in type(child).__name__.lower())
        for layer in attention_layers(model)
    ]


def test_resuming_leaves_the_layers_as_they_were_even_after_an_error(model, batch):
    before = predict(model, batch)
    with pytest.raises(KeyError), resume_at(model, 2, before):
        raise KeyError
    assert all("forward" not in vars(module) for module in model.modules())
    assert not effect(model, batch, before).kl.any()


def test_in_double_computes_in_float64_throughout():
    model = language_model("llama")
    batch = random_batch(lengths=(9, 9))
    exact, half_way = in_double(model), copy.deepcopy(model).double()

    def moved(m):
        """Logits after a change that cancels in exact arithmetic."""
        before = plain(m)
        constant = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad(), edit_qkv(m, None, "K", lambda k, _: k + constant, after_rotary=True):
            return (m(**batch).logits - before).abs().max()

    def plain(m):
        with torch.no_grad():
            return m(**batch).logits

    assert torch.allclose(plain(exact).float(), plain(model), atol=1e-4)
    assert moved(exact) < 1e-12 and moved(half_way) > 1e-9
    assert model.dtype == torch.float32 and type(model.model.norm).__name__ == "LlamaRMSNorm"


def test_what_cannot_predict_the_next_token_is_refused(batch):
    encoder = transformers.AutoModel.from_config(FAMILIES["bert"].config)
    with pytest.raises(ValueError, match="BertModel does not predict the next token: use a causal model"):
        predict(encoder, batch)
    with pytest.raises(ValueError, match=r"nothing can be predicted in sentences of one token: leave out \[1\]"):
        predict(language_model("gpt2"), random_batch(lengths=(4, 1)))


def test_real_tokens(batch):
    assert real_tokens(batch).sum(dim=1).tolist() == [9, 6, 4]
    assert real_tokens(batch, first=False).sum(dim=1).tolist() == [8, 5, 3]
    assert bool(batch["attention_mask"][:, 0].all())  # the batch itself is left alone


def test_the_ordinary_sentences_are_different_and_long_enough(smollm2):
    sentences = load_ordinary()
    lengths = [len(ids) for ids in smollm2[1](sentences)["input_ids"]]
    assert len(set(sentences)) == 80 and min(lengths) >= 15
    assert all(sentence == sentence.strip() and sentence.isascii() for sentence in sentences)


# ---- figures -------------------------------------------------------------------------------------


def test_the_interval_is_that_of_students_t():
    values = np.random.default_rng(0).normal(2, 3, size=40)
    mean, reach = mean_and_reach(values)
    assert abs(mean - values.mean()) < 1e-12
    assert abs(reach - 2.022691 * values.std(ddof=1) / np.sqrt(40)) < 1e-5  # the 97.5th percentile of t(39)


@pytest.fixture
def kl():
    generator = torch.Generator().manual_seed(0)
    return lambda scale=1.0: scale * (1 + torch.rand(12, generator=generator, dtype=torch.float64))


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_plot_effects_shows_edit_and_control_in_the_same_row(kl, language):
    effects = {"Q": {"subtract": kl()}, "K": {"subtract": kl(), "after_rotary": kl(0)}}
    figure = plot_effects(effects, {"Q": {"subtract": [kl(), kl()]}, "K": {}}, title="T")
    wanted = "trừ độ dời" if language == "vi" else "subtract the offset"
    assert wanted in texts(figure) and "T" in texts(figure)
    assert [len(axis.containers) for axis in figure.axes] == [3, 1]  # the vanishing effect is an arrow, no bar
    arrow = [line for line in figure.axes[1].lines if line.get_marker() == "<"]
    assert len(arrow) == 1 and arrow[0].get_ydata() == [1]
    edit, *_ = [c for c in figure.axes[0].containers if c[0].get_marker() == "o"]
    assert np.isclose(edit[0].get_xdata(), float(effects["Q"]["subtract"].mean())).all()


def test_plot_scaling_and_depth_show_means_and_controls(kl, language):
    figure = plot_scaling((0, 1), {"Q": [kl(), kl(0)], "V": [kl(), kl(0)]}, {"Q": [kl()], "V": [kl()]})
    assert all(len([line for line in axis.lines if line.get_linestyle() == ":"]) == 1 for axis in figure.axes)
    effects = [kl(), kl()]
    figure = plot_effect_depth([0, 3], {"Q": effects, "K": effects}, {"Q": [kl(), kl()], "K": [kl(0), kl(0)]})
    drawn = figure.axes[0].containers[1][0]
    assert np.allclose(drawn.get_ydata(), [float(e.mean()) for e in effects]) and list(drawn.get_xdata()) == [0, 3]


def test_plot_smile_and_effect_and_distance_and_curves(kl, language):
    points = {"Q": {"one_layer": (torch.tensor([0.1, 0.5]), [kl(), kl()], [kl(), kl(0)])}}
    figure = plot_smile_and_effect(points | {"K": points["Q"]})
    assert len(figure.axes[0].containers) == 2
    heads = torch.rand(5, 3, 7)
    figure = plot_distance({0: heads, 4: heads}, {0: heads, 4: heads})
    assert len(figure.axes[0].lines) == 2 * 3 + 1
    assert np.allclose(figure.axes[0].lines[3].get_ydata().mean(), 0, atol=1e-6)
    figure = plot_layer_curves(
        {"offset_size": {"edited": heads[:, 0], "unedited": heads[:, 1]}}, "on_first", colour="C0"
    )
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), heads[:, 0].mean(dim=0), atol=1e-6)


# ---- exercises of notebook 09 --------------------------------------------------------------------


def random_like(offset, d_head, generator):
    heads = offset.unflatten(-1, (-1, d_head))
    random = torch.randn(heads.shape, generator=generator)
    return (random * heads.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)).flatten(-2)


@pytest.mark.parametrize(
    ("number", "answer", "hint"),
    [
        ("9.1", random_like, None),
        ("9.1", lambda o, d, g: ..., "not done yet"),
        ("9.1", lambda o, d, g: o, "direction is still"),
        ("9.1", lambda o, d, g: torch.randn(3, 6, generator=g), "norm in each head"),
        ("9.1", lambda o, d, g: random_like(o, 6, g), "not in each head"),
        ("9.1", lambda o, d, g: random_like(o, d, None), "same generator"),
        ("9.1", lambda o, d, g: random_like(o, d, g)[0], "the shape is"),
        ("9.2", lambda q, c: q @ c / 8**0.5, None),
        ("9.2", lambda q, c: ..., "not done yet"),
        ("9.2", lambda q, c: q @ c, "division"),
        ("9.2", lambda q, c: q @ c / 8, "square root"),
        ("9.2", lambda q, c: q.sum(-1), "last term"),
        ("9.2", lambda q, c: q * c, "the shape is"),
        ("9.3", lambda q, k, m: (q @ m, k @ torch.linalg.inv(m).mT), None),
        ("9.3", lambda q, k, m: ..., "not done yet"),
        ("9.3", lambda q, k, m: (q @ m, k @ torch.linalg.inv(m)), "transposed"),
        ("9.3", lambda q, k, m: (q @ m, k @ m), "scores q·k changed"),
        ("9.3", lambda q, k, m: (q, k), "q must become q M"),
        ("9.3", lambda q, k, m: (q[:2], k), "the shape is"),
    ],
)
def test_checks_of_notebook_09(number, answer, hint):
    right, found = verdict(number, answer)
    assert right == (hint is None) and (hint is None or hint in found), found
