"""What an edit of Q, K or V does to a model's predictions (notebook 09).

    before = predict(model, batch)
    with edit_qkv(model, 5, "V", lambda v, positions: 0 * v):
        after = effect(model, batch, before)
    after.kl                                               # [sentence], nats per token

The edit itself is `edit_qkv` of `helpers.capture`.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from helpers.capture import attention_layers


@dataclass(frozen=True)
class Predictions:
    """What a causal model predicts for every next token of a batch, and its layers' outputs."""

    p: torch.Tensor
    """Probabilities `[prediction, vocabulary]`, the predictions of all sentences one after the other."""
    entropy: torch.Tensor
    """Of each prediction, nats, float64 `[prediction]`."""
    loss: torch.Tensor
    """Cross-entropy of each prediction, nats, float64 `[prediction]`."""
    layer_outputs: tuple
    """What each layer returned, in order: where `resume_at` starts from."""


class Effect(NamedTuple):
    """Change against the unedited model, mean over the predictions of each sentence, nats per token."""

    delta_loss: torch.Tensor
    """Cross-entropy, edited minus unedited, float64 `[sentence]`."""
    kl: torch.Tensor
    """Kullback-Leibler divergence KL(unedited || edited), float64 `[sentence]`."""


def predict(model, batch):
    """The unedited predictions that `effect` compares with.

    Args:
        model: a causal language model (`...ForCausalLM`, `...LMHeadModel`).
        batch: from `encode`, padded on the right, every sentence of two tokens at least.

    Raises:
        ValueError: the model has no head for the next token, or a sentence has one token only.
    """
    if model.get_output_embeddings() is None or not getattr(model, "can_generate", bool)():
        raise ValueError(
            f"{type(model).__name__} does not predict the next token: use a causal model, load_model('smollm2') for one"
        )
    short = (batch["attention_mask"].sum(dim=1) < 2).nonzero().flatten().tolist()
    if short:
        raise ValueError(f"nothing can be predicted in sentences of one token: leave out {short}")
    outputs = []
    hooks = [layer.register_forward_hook(lambda *seen: outputs.append(seen[-1])) for layer in attention_layers(model)]
    try:
        logits = _logits(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    normaliser = logits.logsumexp(dim=-1)  # [prediction]
    p = (logits - normaliser.unsqueeze(-1)).exp_()
    entropy = normaliser.double() - _expected(p, logits)
    return Predictions(p, entropy, normaliser.double() - _of_next(logits, batch), tuple(outputs))


def effect(model, batch, before):
    """Compare the model as it is now, edited, with its `predict`ions before.

    Source: KL(p || q) = sum p (log p - log q), summed over the vocabulary.
    """
    logits = _logits(model, batch)
    normaliser = logits.logsumexp(dim=-1).double()  # [prediction]
    loss = normaliser - _of_next(logits, batch)
    kl = normaliser - _expected(before.p, logits) - before.entropy
    return Effect(_by_sentence(loss - before.loss, batch), _by_sentence(kl, batch))


def _expected(p, logits):
    return torch.linalg.vecdot(p, logits).double()  # [prediction]


@contextmanager
def resume_at(model, layer, before):
    """Skip the layers below `layer` by giving back what they returned in the unedited run.

    An edit at `layer` leaves all layers below as they were, so the result is the same, sooner.
    """
    skipped = attention_layers(model)[:layer]
    try:
        for below, output in zip(skipped, before.layer_outputs):
            below.forward = lambda *args, _output=output, **kwargs: _output
        yield
    finally:
        for below in skipped:
            vars(below).pop("forward", None)


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


def real_tokens(batch, *, first=True):
    """Which positions hold text, bool `[sentence, token]`; without the first token if `first` is False."""
    real = batch["attention_mask"].bool().clone()
    if not first:
        real[:, 0] = False
    return real


def _logits(model, batch):
    """`[prediction, vocabulary]`: only where a next token follows."""
    device = next(model.parameters()).device
    with torch.no_grad():
        hidden = model.base_model(**{key: value.to(device) for key, value in batch.items()}).last_hidden_state
        return model.get_output_embeddings()(hidden[:, :-1][_has_next(batch).to(device)])


def _has_next(batch):
    return batch["attention_mask"][:, 1:].bool()  # [sentence, token - 1]


def _of_next(logits, batch):
    following = batch["input_ids"][:, 1:][_has_next(batch)].to(logits.device)  # [prediction]
    return logits.gather(-1, following.unsqueeze(-1)).squeeze(-1).double()


def _by_sentence(values, batch):
    lengths = _has_next(batch).sum(dim=1).tolist()
    return torch.stack([part.mean() for part in values.split(lengths)])
