"""What an edit of Q, K or V does to a model's predictions (notebook 09).

    before = predict(model, batch)
    with edit_qkv(model, 5, "V", lambda v, positions: 0 * v):
        kl = effect(model, batch, before)                  # [sentence], nats per token

The edit itself is `edit_qkv` of `helpers.experiments.edit`.
"""

import copy
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from helpers.capture import attention_layers, attention_modules, capture_qkv
from helpers.experiments.edit import edit_qkv, recorded
from helpers.masks import PARTS
from helpers.settings import say


@dataclass(frozen=True)
class Predictions:
    """What a causal model predicts for every next token of a batch, the predictions one after the other."""

    p: torch.Tensor
    """Probabilities `[prediction, vocabulary]`."""
    entropy: torch.Tensor
    """Of each prediction, nats, float64 `[prediction]`."""


def predict(model, batch):
    """The unedited predictions that `effect` compares with.

    Args:
        model: a causal language model (`...ForCausalLM`, `...LMHeadModel`).
        batch: from `encode`, padded on the right, every sentence of two tokens at least.

    Raises:
        ValueError: the model has no head for the next token, or a sentence has one token only.
    """
    if model.get_output_embeddings() is None or not getattr(model, "can_generate", bool)():
        vi = "không dự đoán token kế tiếp: hãy dùng một mô hình nhân quả, chẳng hạn load_model('smollm2')"
        en = "does not predict the next token: use a causal model, load_model('smollm2') for one"
        raise ValueError(f"{type(model).__name__} {say(vi, en)}")
    short = (batch["attention_mask"].sum(dim=1) < 2).nonzero().flatten().tolist()
    if short:
        vi = f"câu chỉ có một token thì không có gì để dự đoán: hãy bỏ các câu {short}"
        en = f"nothing can be predicted in sentences of one token: leave out {short}"
        raise ValueError(say(vi, en))
    logits = _logits(model, batch)
    normaliser = logits.logsumexp(dim=-1)  # [prediction]
    p = (logits - normaliser.unsqueeze(-1)).exp_()
    return Predictions(p, normaliser.double() - _expected(p, logits))


def effect(model, batch, before):
    """KL(unedited || as the model is now), mean over the predictions of each sentence: float64 `[sentence]`, nats.

    Source: KL(p || q) = sum p (log p - log q), summed over the vocabulary.
    """
    logits = _logits(model, batch)
    kl = logits.logsumexp(dim=-1).double() - _expected(before.p, logits) - before.entropy
    return _by_sentence(kl, batch)


def context_free(before, batch):
    """The KL of a predictor that has not read the text: it always gives the mean of all predictions.  `[sentence]`"""
    mean = before.p.mean(dim=0)
    return _by_sentence(
        -_expected(before.p, mean.clamp(min=torch.finfo(mean.dtype).tiny).log()) - before.entropy, batch
    )


def _expected(p, logits):
    return torch.linalg.vecdot(p, logits).double()  # [prediction]


def in_double(model):
    """A copy of the model that computes in float64 throughout.

    `model.double()` alone does not: transformers takes eager attention's softmax and every RMSNorm in
    float32 whatever the dtype of the weights.
    """
    double = copy.deepcopy(model).double()
    double.set_attn_implementation("sdpa")  # its softmax keeps the dtype
    for parent in list(double.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm).__name__.endswith("RMSNorm") and not isinstance(norm, torch.nn.RMSNorm):
                exact = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon).to(norm.weight)
                exact.weight.data.copy_(norm.weight)
                setattr(parent, name, exact)
    return double.requires_grad_(False)


def real_tokens(batch):
    """Which positions hold text and not padding: bool `[sentence, token]`, on the CPU."""
    return batch["attention_mask"].bool().cpu()


MASSIVE = 2.5  # times the median length of the residual stream


def massive_tokens(model, batch):
    """Which tokens have a massive residual stream, as attention sinks have; by norm, not by position.

    A text token is massive if the length of its residual stream at the input of some layer exceeds `MASSIVE` times
    the median over the text tokens of the batch there.

    Returns:
        bool `[sentence, token]`; False at padding.

    Source: M. Sun et al., Massive Activations in Large Language Models, 2024 (arXiv:2402.17762).
    """
    with _norms_recorded(model) as norms:
        _run(model, batch)
    return _massive(norms, real_tokens(batch))


def common_mean(model, batch):
    """Mean of Q, of K and of V over the text tokens that are not massive: {part: `[layer, feature]`}.

    Take other sentences than those that you measure on.
    """
    with _norms_recorded(model) as norms:
        qkv = capture_qkv(model, batch)
    real = real_tokens(batch)
    ordinary = (real & ~_massive(norms, real)).to(qkv.q.device)
    return {part: getattr(qkv, part.lower())[:, ordinary].mean(dim=1) for part in PARTS}


@contextmanager
def _norms_recorded(model):
    """Length of the residual stream at the input of every layer that runs: list of `[sentence, token]`, on the CPU."""
    norms = []
    with ExitStack() as hooks:
        for layer in attention_layers(model):
            hook = layer.register_forward_pre_hook(lambda _, args: norms.append(args[0].norm(dim=-1).cpu()))
            hooks.callback(hook.remove)
        yield norms


def _massive(norms, real):
    massive = torch.stack([norm > MASSIVE * norm[real].median() for norm in norms])  # [layer, sentence, token]
    return massive.any(dim=0) & real


@contextmanager
def edit_layers(model, part, change, *, where=None, after_rotary=False):
    """`edit_qkv` in all layers at once.

    Args:
        part: "Q", "K" or "V".
        change: (vectors `[sentence, token, feature]`, layer) -> new vectors.  0 times the vectors is zero
            ablation; their mean in the place of each, as of `common_mean`, is mean ablation.
        where: bool `[sentence, token]`, the tokens that are edited; None takes all.
    """

    def fn(layer, values, positions):
        new = change(values, layer)
        return new if where is None else torch.where(where.to(values.device).unsqueeze(-1), new, values)

    with ExitStack() as edits:
        for layer in range(len(attention_modules(model))):
            edits.enter_context(edit_qkv(model, layer, part, partial(fn, layer), after_rotary=after_rotary))
        yield


def as_long_as(vector, other, d_head):
    """`vector`, scaled to be as long as `other` in every head; both `[..., feature]`, heads side by side."""
    vector, other = (x.unflatten(-1, (-1, d_head)) for x in (vector, other))  # [..., head, d_head]
    return (vector / vector.norm(dim=-1, keepdim=True) * other.norm(dim=-1, keepdim=True)).flatten(-2)


def random_like(vector, d_head, generator):
    """A random direction in every head, as long as `vector` there: the control of every edit."""
    return as_long_as(torch.randn(vector.shape, generator=generator).to(vector), vector, d_head)


def turn_pairs(heads, angle):
    """`heads` `[..., d_head]` with feature i and feature i + half turned by `angle` `[..., half]`; the rest as it is."""
    half, cos, sin = angle.shape[-1], angle.cos(), angle.sin()
    first, second, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


def other_phases(vector, d_head, half, generator):
    """`vector` with every rotary pair (i, i + half) of a head turned by a random angle: a stricter control.

    It keeps the length of each pair, which `random_like` does not.  With half = 0 the sign of each feature is drawn.
    """
    heads = vector.unflatten(-1, (-1, d_head))  # [..., head, d_head]
    if not half:
        return (heads * (torch.randint(0, 2, heads.shape, generator=generator).to(heads) * 2 - 1)).flatten(-2)
    angle = 2 * torch.pi * torch.rand(heads[..., :half].shape, generator=generator)
    return turn_pairs(heads, angle.to(heads)).flatten(-2)


def rotary_half(model, d_head):
    """Number of feature pairs that the rotary step turns in a head, feature i with i + half; 0 without one."""
    settings = getattr(model.config, "rope_parameters", None)
    return int(d_head * settings.get("partial_rotary_factor", 1)) // 2 if settings else 0


def after_rotary(model, batch, part, *, instead=None):
    """Q or K as they enter the dot product, after any rotary step: `[layer, sentence, token, feature]`.

    Args:
        instead: `[layer, feature]`, one vector in the place of every token's own before the rotary step
            (mean ablation, where it is the mean).
    """

    def change(x, layer):
        return x if instead is None else instead[layer].to(x).expand_as(x)

    with edit_layers(model, part, change), recorded(model, part, after_rotary=True) as seen:
        _run(model, batch)
    return torch.stack(seen)


@contextmanager
def edit_attention(model, fn):
    """Replace attention weights as long as the `with` block lasts.  The model must be loaded with eager attention.

    Args:
        fn: (layer, weights `[sentence, head, query, key]`) -> new weights of the same shape, or None to leave them.

    The new weights enter through the additive mask: softmax(score + log(new / old)) = new, wherever old > 0.
    """

    def hook(layer, module, args, kwargs, output):
        new = fn(layer, output[1].clone())
        if new is None:
            return None
        tiny = torch.finfo(new.dtype).tiny
        shift = new.clamp(min=tiny).log() - output[1].clamp(min=tiny).log()
        once_more = {name: None if "past" in name else value for name, value in kwargs.items()}
        return module.forward(*args, **{**once_more, "attention_mask": kwargs["attention_mask"] + shift})

    with ExitStack() as hooks:
        for layer, module in enumerate(attention_modules(model)):
            hooks.callback(module.register_forward_hook(partial(hook, layer), with_kwargs=True).remove)
        yield


@contextmanager
def clamped(model, tokens, goal=None):
    """Clamp the attention weights on some tokens as long as the `with` block lasts; yields all weights, as recorded.

    Args:
        tokens: bool `[sentence, token]`, the keys whose weights are clamped.
        goal: {layer: weights}, where their weights come from (of another run); the other keys share the rest in
            the proportions that they have.  None clamps nothing and only records.

    Yields:
        {layer: weights `[sentence, head, query, key]`} of the last run in the block.
    """
    chosen, seen = tokens[:, None, None, :], {}

    def clamp(layer, weights):
        seen[layer] = weights
        if goal is None:
            return None
        key = chosen.to(weights.device)
        rest = (weights * ~key).sum(dim=-1, keepdim=True)
        room = 1 - (goal[layer] * key).sum(dim=-1, keepdim=True)
        seen[layer] = torch.where(key, goal[layer], weights * room / rest.clamp(min=1e-30)).where(rest > 0, weights)
        return seen[layer]  # where nothing but those tokens is seen, the weights stay

    with edit_attention(model, clamp):
        yield seen


def score_by_distance(q, c, real, d_head):
    """What a constant in all keys of one layer adds to the scores, by distance back to the key.

    Only queries that see all distances are used, and the mean over these is taken out of each: a number that is the
    same for all keys of a query is dropped by the softmax.

    Args:
        q: queries after the rotary step, `[sentence, token, feature]`.
        c: the constant as a key of each position, after the rotary step, `[token, feature]`.
        real: bool `[sentence, token]`; distances go up to half of the shortest sentence.
        d_head: features per head.

    Returns:
        `[sentence, head, distance]`.
    """
    q, c = (x.unflatten(-1, (-1, d_head)).movedim(-2, -3) for x in (q, c))  # [(sentence,) head, token, d_head]
    scores = q @ c.repeat_interleave(q.shape[-3] // c.shape[-3], dim=0).mT / d_head**0.5  # [.., query, key]
    far = int(real.sum(dim=1).min()) // 2
    query = torch.arange(far - 1, real.shape[1], device=q.device)
    back = scores[..., query.unsqueeze(1), query.unsqueeze(1) - torch.arange(far, device=q.device)]  # [.., distance]
    back = back - back.mean(dim=-1, keepdim=True)
    counted = real.to(q.device)[:, None, far - 1 :, None].to(back)
    return (back * counted).sum(dim=2) / counted.sum(dim=2)


def _run(model, batch):
    """Last hidden states `[sentence, token, n_embd]`."""
    device = next(model.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items()}
    with torch.no_grad():
        return model.base_model(**inputs, use_cache=False).last_hidden_state


def _logits(model, batch):
    """`[prediction, vocabulary]`: only where a next token follows."""
    with torch.no_grad():
        hidden = _run(model, batch)
        return model.get_output_embeddings()(hidden[:, :-1][_has_next(batch).to(hidden.device)])


def _has_next(batch):
    return batch["attention_mask"][:, 1:].bool()  # [sentence, token - 1]


def _by_sentence(values, batch):
    lengths = _has_next(batch).sum(dim=1).tolist()
    return torch.stack([part.mean() for part in values.cpu().split(lengths)])
