"""One place in many sentences, filled with one word or another: what do later tokens read there? (notebook 09)

    slot = WordSlot(model, batch, find_token(batch, her))  # the sentences with " her"
    vectors = slot.capture(him)                            # " him" in its place: {part: [layer, sentence, feature]}
    p, mixed = slot.predict(him), slot.predict(her, K=vectors["K"])  # " her" in its place, with the keys of " him"
    slot.kl(p, mixed)                                      # [sentence], nats per token after the word

Later tokens see the place only through its K and V, so with both replaced the prediction is that of the other
word.  What stands before the place is the same for every word: it is run once and kept in a key-value cache.
"""

import copy
from contextlib import ExitStack
from functools import lru_cache, partial

import torch
from transformers import DynamicCache

from helpers.capture import checked_inputs
from helpers.experiments.edit import recorded
from helpers.experiments.interventions import edit_layers, next_token_model, own_logits
from helpers.masks import PARTS
from helpers.running.inputs import real_mask
from helpers.settings import message
from helpers.text import shortened


class WordSlot:
    """The place of one word in each sentence of a batch; `ValueError` where it stands first in one.

    Args:
        model: a causal language model that `capture_qkv` knows.
        batch: from `encode`.
        positions: `[sentence]`, the place (`find_token`).
    """

    def __init__(self, model, batch, positions):
        self._model, real = next_token_model(model), real_mask(batch).cpu()
        start, length = real.long().argmax(dim=1), real.sum(dim=1)
        before = positions.cpu() - start  # [sentence], tokens before the word
        if first := (before <= 0).nonzero().flatten().tolist():
            raise ValueError(message("word_first", which=shortened(first)))
        self._at = at = int(before.max())  # the column in which all the words stand now, with padding on both sides
        columns = torch.arange(at + int((length - before).max())) - at + positions.cpu().unsqueeze(1)
        real = (columns >= start.unsqueeze(1)) & (columns < (start + length).unsqueeze(1))  # [sentence, column]
        ids = batch["input_ids"].cpu().gather(1, columns.clamp(0, batch["input_ids"].shape[1] - 1)) * real
        self._inputs = checked_inputs(self._model, {"input_ids": ids, "attention_mask": real.long()})
        self._counted = real[:, at + 1 : -1] & real[:, at + 2 :]  # [sentence, token after the word]: one more follows
        self._past = DynamicCache()  # that of the model itself drops what a sliding window has left behind
        with torch.no_grad():
            self._model.base_model(**self._columns(0, at), past_key_values=self._past, use_cache=True)
        self._unedited = lru_cache(2)(self._log_p)  # both are asked for again
        self.capture = lru_cache(16)(self.capture)

    def capture(self, token_id):
        """Q, K and V of a word at this place, {part: `[layer, sentence, feature]`}, before any rotary embedding."""
        with ExitStack() as edits, torch.no_grad():
            seen = {part: edits.enter_context(recorded(self._model, part)) for part in PARTS}
            self._model.base_model(**self._with_word(token_id, self._at + 1))
        return {part: torch.cat(vectors, dim=1).transpose(0, 1) for part, vectors in seen.items()}

    def predict(self, token_id, **replaced):
        """Logarithms of the probabilities after the word, `[prediction, vocabulary]`, sentence by sentence.

        `replaced` holds Q, K or V at the place instead of the word's own, each `[layer, sentence, feature]`.
        `ValueError` where fewer than two tokens follow the word in a sentence: nothing is predicted after it.
        """
        if nothing := (~self._counted.any(dim=1)).nonzero().flatten().tolist():
            raise ValueError(message("nothing_follows", which=shortened(nothing)))
        if not replaced:
            return self._unedited(token_id)

        def replace(new, values, layer):
            values[:, 0] = new[layer].to(values)
            return values

        with ExitStack() as edits:
            for part, new in replaced.items():
                edits.enter_context(edit_layers(self._model, part, partial(replace, new)))
            return self._log_p(token_id)

    def _log_p(self, token_id):
        after_it = torch.nn.functional.pad(self._counted, (1, 0))
        return own_logits(self._model, after_it, **self._with_word(token_id, -1)).log_softmax(dim=-1)

    def kl(self, log_p, log_q):
        """KL(p || q) of two `predict`ions, mean over the tokens after the word: float64 `[sentence]`, nats."""
        each = torch.linalg.vecdot(log_p.exp(), log_p - log_q).double()  # [prediction]
        return torch.stack([part.mean() for part in each.cpu().split(self._counted.sum(dim=1).tolist())])

    def _columns(self, start, end):
        """What the model reads of these columns; the mask reaches back to the first."""
        return {name: x[:, 0 if name == "attention_mask" else start : end] for name, x in self._inputs.items()}

    def _with_word(self, token_id, end):
        """What the model reads from the place on, with the word put in, and a copy of what it keeps."""
        inputs = self._columns(self._at, end)
        ids = inputs["input_ids"].clone()
        ids[:, 0] = token_id
        return inputs | {"input_ids": ids, "past_key_values": copy.deepcopy(self._past), "use_cache": True}
