"""One place in many sentences, filled with one word or another: what do later tokens read there? (notebook 09)

    slot = WordSlot(model, batch, find_token(batch, her))  # the sentences with " her"
    vectors = slot.capture(him)                            # " him" in its place: {part: [layer, sentence, feature]}
    (mixed,) = slot.predict_edited(her, [{"K": vectors["K"]}])  # " her" in its place, with the keys of " him"
    slot.kl(slot.predict(him), mixed)                      # [sentence], nats per token after the word

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

GROUPS = 4  # sentences of about the same length are run together, so that little padding is computed


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
        self.capture, self.predict = lru_cache(16)(self.capture), lru_cache(2)(self.predict)  # asked for again

    def capture(self, token_id):
        """Q, K and V of a word at this place, {part: `[layer, sentence, feature]`}, before any rotary embedding."""
        with ExitStack() as edits, torch.no_grad():
            seen = {part: edits.enter_context(recorded(self._model, part)) for part in PARTS}
            self._model.base_model(**self._with_word(token_id, self._at + 1, torch.arange(len(self._counted))))
        return {part: torch.cat(vectors, dim=1).transpose(0, 1) for part, vectors in seen.items()}

    def predict(self, token_id):
        """Logarithms of the probabilities after the word, `[prediction, vocabulary]`, sentence by sentence.

        `ValueError` where fewer than two tokens follow the word in a sentence: nothing is predicted after it.
        """
        return self.predict_edited(token_id, [{}])[0]

    def predict_edited(self, token_id, edits):
        """`predict` under several edits, `[edit, prediction, vocabulary]`, all in one forward pass.

        Each edit holds Q, K or V at the place instead of the word's own, {part: `[layer, sentence, feature]`}.
        """
        if nothing := (~self._counted.any(dim=1)).nonzero().flatten().tolist():
            raise ValueError(message("nothing_follows", which=shortened(nothing)))

        def replace(part, rows, values, layer):  # [edit * sentence, token, feature]
            for mine, edit in zip(values.split(len(rows)), edits, strict=True):
                if part in edit:
                    mine[:, 0] = edit[part][layer, rows].to(values)
            return values

        found, count = {}, self._counted.sum(dim=1)  # {sentence: predictions of each edit}
        for rows in count.argsort().split(-(-len(count) // GROUPS)):
            copies, after = rows.repeat(len(edits)), self._counted[rows, : count[rows].max()]
            with ExitStack() as changed:
                for part in {part for edit in edits for part in edit}:
                    changed.enter_context(edit_layers(self._model, part, partial(replace, part, rows)))
                inputs = self._with_word(token_id, self._at + 1 + after.shape[1], copies)
                wanted = torch.nn.functional.pad(after, (1, 0)).repeat(len(edits), 1)
                log_p = own_logits(self._model, wanted, **inputs).log_softmax(dim=-1)
            each = log_p.view(len(edits), -1, log_p.shape[-1]).split(count[rows].tolist(), dim=1)
            found.update(zip(rows.tolist(), each, strict=True))
        return torch.cat([found[sentence] for sentence in sorted(found)], dim=1)

    def kl(self, log_p, log_q):
        """KL(p || q) of two `predict`ions, mean over the tokens after the word: float64 `[sentence]`, nats."""
        each = torch.linalg.vecdot(log_p.exp(), log_p - log_q).double()  # [prediction]
        return torch.stack([part.mean() for part in each.cpu().split(self._counted.sum(dim=1).tolist())])

    def _columns(self, start, end):
        """What the model reads of these columns; the mask reaches back to the first."""
        return {name: x[:, 0 if name == "attention_mask" else start : end] for name, x in self._inputs.items()}

    def _with_word(self, token_id, end, rows):
        """What the model reads in these sentences from the place on, with the word put in, and what it keeps."""
        inputs, past = {name: x[rows] for name, x in self._columns(self._at, end).items()}, copy.deepcopy(self._past)
        past.batch_select_indices(rows)
        inputs["input_ids"][:, 0] = token_id
        return inputs | {"past_key_values": past, "use_cache": True}
