"""What the explorer of the site shows: captured vectors of SmolLM2, one file a word and layer, and the swap of notebook 09.

    python -m tools.site.vectors FOLDER

A file holds, for each of the features of Q, K and V (all in this order), its mean and its step, float32, then the
values of each feature in all samples as int16 steps from the mean: within a few thousandths of a per cent of what
`capture_qkv` gives.
"""

import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch

from helpers import capture_qkv, control_positions, encode, find_token, load_model, load_sentences, token_id_of
from helpers.experiments.target import find_word
from helpers.experiments.word_swap import WordSlot
from helpers.settings import LANGUAGES, MESSAGES

HERE = Path(__file__).resolve().parent / "explorer"
SHUFFLES = ("none", "within", "entries", "flip")
SWAPPED = (" him", " his", " them", " Maria", " water")
N_SENTENCES, N_GUESSES = 6, 3  # of the swap
STEPS = 32_000


def captured(model, tokenizer):
    """{name: x `[layer, sample, F]`} of " her", the token before it, " water" and the last token of " của"; and sizes."""
    batch = encode(tokenizer, load_sentences("her"))
    her = find_token(batch, token_id_of(tokenizer, " her"))
    everything = capture_qkv(model, batch)  # her and her control in one run
    x, row = everything.joined(), torch.arange(len(her))  # [layer, sample, token, F]
    water = encode(tokenizer, load_sentences("water"))
    cua = find_word(model, tokenizer, load_sentences("cua"), "của", piece="last")
    of_water = find_token(water, token_id_of(tokenizer, " water"))
    found = {"her": x[:, row, her], "control": x[:, row, control_positions(batch, her)]}
    found["water"] = capture_qkv(model, water, positions=of_water).joined()
    found["cua"] = capture_qkv(model, cua.batch, positions=cua.positions).joined()
    return found, everything.sizes


def packed(x):
    """Bytes of one layer `[sample, F]`."""
    x = x.double().numpy().T  # [feature, sample]
    mean = x.mean(axis=1).astype("<f4")
    step = (np.abs(x - mean[:, None]).max(axis=1) / STEPS).astype("<f4")
    values = np.rint((x - mean[:, None]) / np.maximum(step, 1e-30)[:, None]).astype("<i2")
    return mean.tobytes() + step.tobytes() + values.tobytes()


def swaps(model, tokenizer):
    """For some sentences and words: what is predicted after " her" as it is, with the offset of the word, with the word."""
    sentences, her = load_sentences("her"), token_id_of(tokenizer, " her")
    halves = [encode(tokenizer, sentences[start::2]) for start in (0, 1)]
    halves[1] = encode(tokenizer, sorted(sentences[1::2], key=len)[-N_SENTENCES:])
    means, measured = (WordSlot(model, batch, find_token(batch, her)) for batch in halves)
    positions = find_token(halves[1], her).tolist()
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(halves[1]["input_ids"], halves[1]["attention_mask"])]
    text = tokenizer.decode
    shown = [
        {"text": text(ids), "before": text(ids[:at]), "after": [text([i]) for i in ids[at + 1 :]], "swaps": {}}
        for ids, at in zip(rows, positions)
    ]
    x, mine = measured.capture(her), means.capture(her)
    tokens = [token_id_of(tokenizer, word) for word in SWAPPED]

    def with_offset(token):
        other = means.capture(token)
        return {part: x[part] - mine[part].mean(1, keepdim=True) + other[part].mean(1, keepdim=True) for part in "KV"}

    edited = measured.predict_edited(her, list(map(with_offset, tokens)))
    unedited, most = measured.predict(her), 0.0
    counts = [len(ids) - at - 2 for ids, at in zip(rows, positions)]  # predictions after the word
    for word, token, swapped in zip(SWAPPED, tokens, edited):
        runs = {"unedited": unedited, "swapped": swapped, "goal": measured.predict(token)}
        moved = (runs["unedited"].exp() * (runs["unedited"] - runs["swapped"])).sum(-1)  # [prediction], nats
        most = max(most, float(moved.quantile(0.9)))
        best = {run: log_p.exp().topk(N_GUESSES) for run, log_p in runs.items()}
        start = 0
        for sentence, count in zip(shown, counts):
            sentence["swaps"][word] = [
                {"kl": round(max(0.0, float(moved[row])), 3)}
                | {run: [[text([i]), round(p, 3)] for p, i in zip(top.values[row].tolist(), top.indices[row].tolist())] for run, top in best.items()}
                for row in range(start, start + count)
            ]  # fmt: skip
            start += count
    return {"target": " her", "words": SWAPPED, "most": round(most, 3), "sentences": shown}


@torch.no_grad()
def write(folder):
    """Write everything that the explorer reads into `folder`."""
    model, tokenizer = load_model("smollm2", device="cpu")
    words, sizes = captured(model, tokenizer)
    (folder / "vectors").mkdir(parents=True)
    for script in HERE.glob("*.[jc]s*"):
        shutil.copyfile(script, folder / script.name)
    for name, x in words.items():
        for layer, vectors in enumerate(x):
            (folder / "vectors" / f"{name}-{layer:02}.bin").write_bytes(packed(vectors))
    text = tomllib.loads((HERE / "text.toml").read_text("utf-8")) | {"dequantised": MESSAGES["dequantised"]}
    labels = {name: dict(zip(LANGUAGES, text.pop(f"word_{name}"))) for name in words}
    n_layer, n, _ = words["her"].shape
    data = {"model": model.provenance, "layers": n_layer, "n": n, "sizes": sizes, "shuffles": SHUFFLES}
    data["words"] = [{"name": name, "label": labels[name]} for name in words]
    data["text"] = {language: {key: pair[i] for key, pair in text.items()} for i, language in enumerate(LANGUAGES)}
    for name, content in (("data", data), ("swap", swaps(model, tokenizer))):
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
