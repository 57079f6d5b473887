"""One place in many sentences, filled with one word or another: what do later tokens read there? (notebook 09)

    slot = WordSlot(model, batch, find_token(batch, her))  # the sentences with " her"
    vectors = slot.capture(him)                            # " him" in its place: {part: [layer, sentence, feature]}
    p, mixed = slot.predict(him), slot.predict(her, K=vectors["K"])  # " her" in its place, with the keys of " him"
    slot.kl(p, mixed)                                      # [sentence], nats per token after the word

Later tokens see the place only through its K and V, so with both replaced the prediction is that of the other
word.  What stands before the place is the same for every word: it is run once and kept in a key-value cache.
All sentences lie in one row, one after the other, and a mask lets each see only itself: no padding is computed.
"""

from contextlib import ExitStack
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from transformers import DynamicCache

from helpers.capture import adapter_of, checked_inputs
from helpers.experiments.edit import recorded
from helpers.experiments.interventions import edit_layers, next_token_model, own_logits
from helpers.masks import PARTS
from helpers.running.inputs import real_mask
from helpers.settings import message
from helpers.text import shortened


class WordSlot:
    """The place of one word in each sentence of a batch.

    Args:
        model: a causal language model that `capture_qkv` knows.
        batch: from `encode`.
        positions: `[sentence]`, the place (`find_token`).

    Raises:
        ValueError: the word stands first in a sentence, or the model does not give the same in one row.
    """

    def __init__(self, model, batch, positions):
        model = next_token_model(model)
        inputs, real = checked_inputs(model, batch), real_mask(batch).cpu()
        device, ids = inputs["input_ids"].device, inputs["input_ids"].cpu()
        start = real.long().argmax(dim=1, keepdim=True)
        ids, real = (rows.gather(1, (torch.arange(rows.shape[1]) + start) % rows.shape[1]) for rows in (ids, real))
        place = positions.cpu().unsqueeze(1) - start  # [sentence, 1]
        first = (place <= 0).flatten().nonzero().flatten().tolist()
        if first:
            raise ValueError(message("word_first", which=shortened(first)))
        token, length = torch.arange(real.shape[1]), real.sum(dim=1, keepdim=True)
        # the last token of a sentence predicts nothing that is counted, and no other token sees it
        rest = (token >= place) & (token < (length - 1).maximum(place + 1))
        self._model, self._n_sentence = model, len(place)
        self._past, self._rest = (_row_of(ids, chosen, device) for chosen in (real & (token < place), rest))
        at_word = self._rest.position == place.flatten().to(device)[self._rest.sentence]
        self._at = at_word.nonzero().flatten()  # [sentence]
        self._counted = (~at_word).nonzero().flatten()  # [prediction]
        if adapter_of(model).between == "bias" or getattr(model.config, "alibi", False):  # of distances in the row
            raise ValueError(message("not_in_one_row", kind=model.config.model_type))
        past = DynamicCache()  # that of the model itself drops what a sliding window has left behind
        with torch.no_grad():
            model.base_model(**self._past.inputs(self._past, model.dtype), past_key_values=past, use_cache=True)
        self._cache = [(layer.keys, layer.values) for layer in past.layers]
        self._unedited = lru_cache(2)(self._log_p)  # both are asked for again
        self._captured = lru_cache(16)(self._capture)
        self._check_row(inputs, real)

    def _check_row(self, inputs, real):
        """In one row all must come out as in rows of their own, not so where attention counts the tokens in between."""
        lengths, found = real.sum(dim=1), self._run(self._rest, self._rest.ids, slice(None))
        for chosen in {int(lengths.argmax()), self._n_sentence - 1}:  # the longest, and the one furthest from its past
            here = self._rest.sentence == chosen
            ids = inputs["input_ids"][chosen][inputs["attention_mask"][chosen].bool()][None]
            with torch.no_grad():
                alone = self._model.base_model(ids).last_hidden_state[0, self._rest.position[here]]
            if (found[here] - alone).abs().max() > (0.01 if found.dtype.itemsize > 2 else 0.1) * alone.abs().max():
                raise ValueError(message("not_in_one_row", kind=self._model.config.model_type))

    def capture(self, token_id):
        """Q, K and V of a word at this place, {part: `[layer, sentence, feature]`}, before any rotary embedding."""
        return dict(self._captured(token_id))

    def _capture(self, token_id):
        with ExitStack() as edits:
            seen = {part: edits.enter_context(recorded(self._model, part)) for part in PARTS}
            self._run(self._rest.only(self._at), token_id, slice(None))
        return {part: torch.cat(vectors) for part, vectors in seen.items()}  # all sentences lie in one row

    def predict(self, token_id, **replaced):
        """Logarithms of the probabilities after the word, `[prediction, vocabulary]`, sentence by sentence.

        Args:
            token_id: the word in this place.
            replaced: Q, K or V at the place instead of the word's own, each `[layer, sentence, feature]`.

        Raises:
            ValueError: fewer than two tokens follow the word in a sentence: nothing is predicted after it.
        """
        nothing = (self._counts() == 0).nonzero().flatten().tolist()
        if nothing:
            raise ValueError(message("nothing_follows", which=shortened(nothing)))
        if not replaced:
            return self._unedited(token_id)

        def replace(new, values, layer):
            values[0, self._at] = new[layer].to(values)
            return values

        with ExitStack() as edits:
            for part, new in replaced.items():
                edits.enter_context(edit_layers(self._model, part, partial(replace, new)))
            return self._log_p(token_id)

    def _log_p(self, token_id):
        wanted = torch.zeros_like(self._rest.ids, dtype=torch.bool).index_fill(0, self._counted, True)[None]
        return own_logits(self._model, wanted, **self._inputs(self._rest, token_id, self._at)).log_softmax(dim=-1)

    def kl(self, log_p, log_q):
        """KL(p || q) of two `predict`ions, mean over the tokens after the word: float64 `[sentence]`, nats."""
        each = torch.linalg.vecdot(log_p.exp(), log_p - log_q).double()  # [prediction]
        return torch.stack([part.mean() for part in each.cpu().split(self._counts().tolist())])

    def _counts(self):
        return self._rest.sentence[self._counted].bincount(minlength=self._n_sentence)  # [sentence]

    def _run(self, row, token_id, at):
        """Last hidden states `[token, n_embd]`."""
        with torch.no_grad():
            return self._model.base_model(**self._inputs(row, token_id, at)).last_hidden_state[0]

    def _inputs(self, row, token_id, at):
        """Of a row that follows what is kept, with the word put in."""
        inputs = row.inputs(self._past.and_then(row), self._model.dtype)
        inputs["input_ids"][0, at] = token_id
        cache = DynamicCache()
        for layer, (k, v) in enumerate(self._cache):
            cache.update(k, v, layer)
        return inputs | {"past_key_values": cache}


class _Row(NamedTuple):
    """Some tokens of a batch in one row, each field `[token]`."""

    ids: torch.Tensor
    sentence: torch.Tensor
    position: torch.Tensor

    def only(self, at):
        return _Row(*(field[at] for field in self))

    def and_then(self, other):
        return _Row(*(torch.cat(fields) for fields in zip(self, other, strict=True)))

    def inputs(self, seen, dtype):
        """For the model; `seen` is the row of all keys: a token sees those of its sentence up to itself."""
        mine, earlier = (self.sentence.unsqueeze(1) == seen.sentence), (self.position.unsqueeze(1) >= seen.position)
        mask = torch.full(mine.shape, torch.finfo(dtype).min, dtype=dtype, device=self.ids.device)
        mask.masked_fill_(mine & earlier, 0)
        return {
            "input_ids": self.ids[None].clone(),
            "position_ids": self.position[None],
            "attention_mask": mask[None, None],
        }


def _row_of(ids, chosen, device):
    """The tokens where `chosen` `[sentence, token]` is true, sentence by sentence."""
    fields = ids[chosen], *chosen.nonzero(as_tuple=True)
    return _Row(*(field.to(device) for field in fields))
