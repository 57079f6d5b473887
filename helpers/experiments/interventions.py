"""What an edit of Q, K or V does to a model's predictions (notebook 09).
The edit ends with its block:

    before = predict(model, batch)
    with edit_qkv(model, 5, "V", lambda v, positions: 0 * v):
        kl = effect(model, batch, before)                  # [sentence], nats per token
"""

import copy
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from helpers.capture import attention_modules, capture_qkv, checked_inputs, is_causal, layer_stack
from helpers.experiments.edit import cached_tokens, edit_qkv, recorded
from helpers.masks import PARTS
from helpers.running.hooks import Hooks
from helpers.running.inputs import real_mask, unwrapped
from helpers.settings import message
from helpers.text import shortened, text_tokens

MASSIVE = 2.5  # times the median length of the residual stream


@dataclass(frozen=True)
class Predictions:
    """What a causal model predicts for every next token of a batch, the predictions one after the other."""

    p: torch.Tensor  #: probabilities [prediction, vocabulary]
    entropy: torch.Tensor  #: of each prediction, nats, float64 [prediction]


def predict(model, batch):
    """The unedited predictions that `effect` compares with: the model's own, in float32 at least.

    Args:
        model: a causal language model (`...ForCausalLM`, `...LMHeadModel`).
        batch: from `encode`, every sentence of two tokens at least.

    Raises:
        ValueError: the model has no head for the next token, or a sentence has one token only.
    """
    if short := (~_has_next(batch).any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(message("nothing_to_predict", which=shortened(short)))
    log_p = _log_p(model, batch)
    p = log_p.exp()
    return Predictions(p, -torch.linalg.vecdot(p, log_p).double())


def effect(model, batch, before):
    """KL(unedited || as the model is now), mean over the predictions of each sentence: float64 `[sentence]`, nats.

    Source: KL(p || q) = sum p (log p - log q), summed over the vocabulary.
    """
    return _kl(before, _log_p(model, batch), batch)


def context_free(before, batch):
    """The KL of a predictor that has not read the text: it always gives the mean of all predictions.  `[sentence]`"""
    mean = before.p.mean(dim=0)
    return _kl(before, mean.clamp(min=torch.finfo(mean.dtype).tiny).log(), batch)


def _kl(before, log_q, batch):
    each = -torch.linalg.vecdot(before.p, log_q).double() - before.entropy  # [prediction]: cross-entropy less entropy
    return torch.stack([part.mean() for part in each.cpu().split(_has_next(batch).sum(dim=1).tolist())])


def _has_next(batch):
    real = real_mask(batch)
    return real[:, 1:] & real[:, :-1]  # [sentence, token - 1]


def _log_p(model, batch):
    """`[prediction, vocabulary]`: only where a next token follows."""
    has_next = torch.nn.functional.pad(_has_next(batch), (0, 1))  # [sentence, token]
    model = next_token_model(model)
    return own_logits(model, has_next, **checked_inputs(model, batch), use_cache=False).log_softmax(dim=-1)


def in_double(model):
    """A copy of the model that computes in float64 throughout.

    `model.double()` alone does not: transformers takes eager attention's softmax and every RMSNorm in
    float32 whatever the dtype of the weights.
    """
    double = copy.deepcopy(unwrapped(model)).double()
    double.set_attn_implementation("sdpa")  # its softmax keeps the dtype
    for path, norm in list(double.named_modules()):
        if type(norm).__name__.endswith("RMSNorm") and not isinstance(norm, torch.nn.RMSNorm):
            eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
            exact = torch.nn.RMSNorm(norm.weight.shape, eps=eps).to(norm.weight)
            exact.weight.data.copy_(norm.weight + type(norm).__name__.startswith("Gemma"))  # 1 + weight there
            double.set_submodule(path, exact)
    return double.requires_grad_(False)


def real_tokens(batch):
    """Which positions hold text, and neither padding nor a special token: bool `[sentence, token]`, on the CPU."""
    return text_tokens(batch).cpu()


def massive_tokens(model, batch):
    """Which tokens have a massive residual stream, as attention sinks have; by norm, not by position.

    A token is massive if the length of its residual stream at the input of some layer exceeds `MASSIVE` times the
    median over the text tokens of the batch there.  Special tokens may be, too.  bool `[sentence, token]`, False at
    padding.

    Source: M. Sun et al., Massive Activations in Large Language Models, 2024 (arXiv:2402.17762).
    """
    text, entering = real_tokens(batch), _run(model, batch, output_hidden_states=True).hidden_states[:-1]
    norms = [stream.float().norm(dim=-1).cpu() for stream in entering]  # of each layer, [sentence, token]
    massive = torch.stack([norm > MASSIVE * norm[text].median() for norm in norms]).any(dim=0)
    return massive & real_mask(batch).cpu()


def common_mean(model, batch):
    """Mean of Q, of K and of V over the text tokens that are not massive: {part: `[layer, feature]`}, float32 at least.

    Take other sentences than those that you measure on.
    """
    qkv = capture_qkv(model, batch)
    ordinary = (real_tokens(batch) & ~massive_tokens(model, batch)).to(qkv.q.device)
    precise = torch.promote_types(qkv.q.dtype, torch.float32)
    return {part: getattr(qkv, part.lower())[:, ordinary].to(precise).mean(dim=1) for part in PARTS}


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

    instead: `[layer, feature]`, in the place of every token's own before that step (mean ablation, with the mean).
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

    def replace(layer, module, args, kwargs, output):
        if output[1] is None or (output[1].sum(dim=-1) - 1).abs().max() > 0.05:
            raise ValueError(message("no_weights_seen", came=type(module).__name__))
        if cached_tokens(args, kwargs, layer) > output[1].shape[2]:
            raise ValueError(message("no_cache_here"))
        new = fn(layer, output[1].clone())
        if new is None:
            return None
        tiny = torch.finfo(new.dtype).tiny
        shift = new.clamp(min=tiny).log() - output[1].clamp(min=tiny).log()
        once_more = {name: None if "past" in name else value for name, value in kwargs.items()}
        return module.forward(*args, **{**once_more, "attention_mask": kwargs["attention_mask"] + shift})

    hooks = Hooks()
    with hooks, hooks:
        hooks.put(layer_stack(unwrapped(model)), lambda *_: None)  # counts the runs
        for layer, module in enumerate(attention_modules(model)):
            hooks.put(module, partial(replace, layer))
        yield
        hooks.check_fired()


@contextmanager
def clamped(model, tokens, goal=None):
    """Clamp the attention weights on some tokens as long as the `with` block lasts.

    Yields all weights of the last run, {layer: `[sentence, head, query, key]`}.

    Args:
        tokens: bool `[sentence, token]`, the keys whose weights are clamped.
        goal: {layer: weights}, where their weights come from (of another run); the other keys share the rest in
            the proportions that they have.  None clamps nothing and only records.
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
    """What a constant in all keys of one layer adds to the scores, by distance back: `[sentence, head, distance]`.

    Only queries that see all distances are used, and the mean over these is taken out of each: a number that is the
    same for all keys of a query is dropped by the softmax.

    Args:
        q: queries after the rotary step, `[sentence, token, feature]`.
        c: the constant as a key of each position, after the rotary step, `[token, feature]`.
        real: bool `[sentence, token]`; distances go up to half of the shortest sentence.
        d_head: features per head.
    """
    q, c = (x.unflatten(-1, (-1, d_head)).movedim(-2, -3) for x in (q, c))  # [(sentence,) head, token, d_head]
    scores = q @ c.repeat_interleave(q.shape[-3] // c.shape[-3], dim=0).mT / d_head**0.5  # [.., query, key]
    far = int(real.sum(dim=1).min()) // 2
    query = torch.arange(far - 1, real.shape[1], device=q.device)
    back = scores[..., query.unsqueeze(1), query.unsqueeze(1) - torch.arange(far, device=q.device)]  # [.., distance]
    back = back - back.mean(dim=-1, keepdim=True)
    counted = real.to(q.device)[:, None, far - 1 :, None].to(back)
    return (back * counted).sum(dim=2) / counted.sum(dim=2)


def _run(model, batch, **options):
    """What the base model gives for a batch."""
    model = unwrapped(model)
    with torch.no_grad():
        return model.base_model(**checked_inputs(model, batch), use_cache=False, **options)


def next_token_model(model):
    """The model inside its wrappers; `ValueError` if it does not predict the next token."""
    model = unwrapped(model)
    if model.get_output_embeddings() is None or not model.can_generate() or not is_causal(model):
        raise ValueError(message("no_next_token", came=type(model).__name__))
    return model


def own_logits(model, wanted, **inputs):
    """The model's own logits of the wanted tokens (bool `[sentence, token]`): `[token, vocabulary]`, float32 at least.

    Whatever the model does before and after its output embeddings (BERT's dense layer, Gemma's soft cap) is done.
    """
    hooks = Hooks()

    def keep(module, args, kwargs):
        return (args[0][wanted.to(args[0].device)],), kwargs

    with hooks, hooks, torch.no_grad():
        hooks.put(model.get_output_embeddings(), keep, before=True)
        logits = model(**inputs).logits
    hooks.check_fired(1)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
