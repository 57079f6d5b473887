"""The claims of notebooks 04 and 06 held against thresholds, for any model and any word, and an honest sentence.

Layer 0 stands aside: there the target is often the same in every sentence.
"""

import csv
import operator
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from helpers.i18n import label, say
from helpers.similarity import block_histograms
from helpers.statistics import effective_n, jackknife, smile_index
from helpers.study import FEW, StudyError

COMPARE = {">": operator.gt, "≥": operator.ge, "<": operator.lt, "≤": operator.le}


class Claim(NamedTuple):
    """A claim, the figure that decides it, and the threshold; texts are (Vietnamese, English)."""

    name: tuple
    figure: tuple
    sign: str
    threshold: float

    def holds(self, figure):
        return COMPARE[self.sign](figure, self.threshold)

    def rule(self):
        return f"{say(*self.figure)} {self.sign} {self.threshold:g}"


CLAIMS = (
    Claim(("nụ cười ở Q và K", "a smile for Q and K"), ("min(S QQ, S KK)", "min(S QQ, S KK)"), ">", 0),
    Claim(("V phẳng hơn", "V is flatter"), ("S VV − min(S QQ, S KK)", "S VV − min(S QQ, S KK)"), "≤", -0.1),
    Claim(
        ("Q–K cao", "Q–K is high"),
        ("|s| > 0.9: QK / trung bình QQ, KK", "|s| > 0.9: QK / mean of QQ, KK"),
        "≥",
        0.5,
    ),
    Claim(
        ("trừ trung bình: hết cười", "no smile without the mean"),
        ("S lớn nhất của tương quan", "largest S of the correlation"),
        "<",
        0,
    ),
    Claim(("khi đó như nhiễu", "then like noise"), ("độ rộng / độ rộng của nhiễu", "width / width of noise"), "≤", 1.2),
    Claim(
        ("độ dời không phải nhiễu", "offsets are not noise"),
        ("cos của hai nửa số câu", "cos of the two halves"),
        ">",
        0.9,
    ),
)


def deciding_figures(x, sizes, half=None):
    """The figure of each claim at each layer.

    Args:
        x: `[layer, sentence, F]`.
        sizes: features of Q, K and V.
        half: `[sentence]` of 0 and 1, which half of the sentences each belongs to; None takes turns.

    Returns:
        float64 `[claim, layer]`; NaN where it is undefined (a target that is the same in every sentence).
    """
    half = torch.arange(x.shape[1]) % 2 if half is None else half
    cosine, correlation = block_histograms(x, sizes).values()
    smile = {block: smile_index(h) for block, h in cosine.items()}
    lowest = torch.minimum(smile["QQ"], smile["KK"])
    share = {block: h.share_above for block, h in cosine.items()}
    offsets = [x[:, (half == side).to(x.device)].double().mean(dim=1) for side in (0, 1)]  # each [layer, F]
    return torch.stack(
        [
            lowest,
            smile["VV"] - lowest,
            share["QK"] / ((share["QQ"] + share["KK"]) / 2),
            torch.stack([smile_index(h) for _, h in correlation.items()]).amax(0),
            torch.stack([h.std for _, h in correlation.items()]).amax(0) * (x.shape[1] - 1) ** 0.5,
            torch.cosine_similarity(*offsets, dim=-1),
        ]
    ).cpu()


class Verdict(NamedTuple):
    """What came of one claim."""

    number: int
    claim: Claim
    verdict: str
    """"holds", "partly", "fails" or "undefined", over all layers but layer 0."""
    held: int
    layers: int
    value: float
    """At the layer shown; then its 95% jackknife interval."""
    low: float
    high: float

    @property
    def undecided(self):
        """Whether the interval reaches over the threshold."""
        return self.low <= self.claim.threshold <= self.high


def judge(x, sizes, layer):
    """Verdicts on all claims over the layers of `x` `[layer, sentence, F]`, with intervals at one layer."""
    n = x.shape[1]
    figures = deciding_figures(x, sizes)  # [claim, layer]

    def without_some(rows):  # rows [sentence, 1]: each sentence stays in its half
        rows = rows.flatten()
        return deciding_figures(x[layer : layer + 1, rows], sizes, rows % 2)[:, 0]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="with 2 token")  # three sentences, and one left out
        interval = jackknife(torch.arange(n).view(n, 1), without_some)
    verdicts = []
    for i, claim in enumerate(CLAIMS):
        defined = figures[i, 1:][~figures[i, 1:].isnan()]
        held = int(claim.holds(defined).sum())
        verdict = "holds" if held == len(defined) else "partly" if held else "fails"
        verdict = verdict if len(defined) else "undefined"
        shown = (float(part[i]) for part in interval[:3])
        verdicts.append(Verdict(i + 1, claim, verdict, held, len(defined), *shown))
    return verdicts


def choose_layer(n_layer, wanted=None):
    """The layer to show: the one wanted, else a tenth of the depth, as in notebooks 05 and 06, but never layer 0."""
    if n_layer < 2:
        raise StudyError(
            "Mô hình chỉ có một tầng; tầng 0 được để riêng nên không còn gì để xét.",
            "The model has one layer only; layer 0 stands aside, so nothing is left to judge.",
        )
    if wanted in (None, ""):
        return max(1, n_layer // 10)
    if not re.fullmatch(r"\d+", str(wanted)) or int(wanted) >= n_layer:
        raise StudyError(
            f"LAYER = {wanted!r} không phải là một tầng: hãy chọn một số từ 0 đến {n_layer - 1}.",
            f"LAYER = {wanted!r} is no layer: choose a number from 0 to {n_layer - 1}.",
        )
    return int(wanted)


def conclude(verdicts, x, sizes, layer, target):
    """What may be said, what may not, and why: lines of text in the language in use."""
    n = x.shape[1]
    lines = []
    for verdict in ("holds", "partly", "fails", "undefined"):
        names = [f"({v.number}) {say(*v.claim.name)}" for v in verdicts if v.verdict == verdict]
        if names:
            lines.append(f"{label('verdict_' + verdict).capitalize()}: {', '.join(names)}.")
    open_ones = ", ".join(f"({v.number})" for v in verdicts if v.undecided)
    if open_ones:
        lines.append(
            say(
                f"Ở tầng {layer}, khoảng tin cậy của {open_ones} vắt qua ngưỡng: ngần này câu chưa đủ để phân xử.",
                f"At layer {layer} the interval of {open_ones} reaches over the threshold: these sentences do not decide.",
            )
        )
    if any(v.value != v.value for v in verdicts):  # NaN
        lines.append(
            say(
                f"Ở tầng {layer} có con số không xác định: token đích ở đó như nhau trong mọi câu, nên không có gì để so.",
                f"At layer {layer} a figure is undefined: the target is the same in every sentence there.",
            )
        )
    n_eff = float(effective_n(block_histograms(x[layer], sizes, measures="cosine")["cosine"]["QQ"], "cosine"))
    lines.append(
        say(
            f"Ở tầng {layer}, biểu đồ cosine của QQ rộng như của {n_eff:.1f} câu độc lập, dù có {n} câu.",
            f"At layer {layer} the histogram of QQ cosines is as wide as that of {n_eff:.1f} independent sentences, out of {n}.",
        )
    )
    if target.n_distinct < n:
        lines.append(
            say(
                f"Cẩn thận: chỉ {target.n_distinct} trong {n} đoạn đầu là khác nhau; các câu còn lại chỉ lặp lại.",
                f"Careful: only {target.n_distinct} of {n} beginnings differ; the other sentences are repetitions.",
            )
        )
    if min(n, target.n_distinct) < FEW:
        lines.append(
            say("Cẩn thận: quá ít câu, ngẫu nhiên cũng cười.", "Careful: so few sentences that chance smiles too.")
        )
    if len(target.pieces) > 1:
        lines.append(
            say(
                f"Kết quả là của token cuối {target.pieces[-1]} của “{target.word}”, không phải của cả từ.",
                f"The result is about {target.pieces[-1]}, the last token of “{target.word}”, not about the word.",
            )
        )
    lines.append(
        say(
            "Biểu đồ không cho biết mô hình có dùng độ dời hay không, và không nói gì về từ khác hay mô hình khác.",
            "Histograms do not say whether the model uses its offsets, and nothing about other words or models.",
        )
    )
    return lines


def export(figure, verdicts, target, provenance, layer, folder="my_study"):
    """Write the figure as PNG and the verdicts as CSV (UTF-8, opens in a spreadsheet); returns the file names."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^\w-]+", "_", f"{target.word} {provenance.split(' (')[0]}").strip("_")
    figure.savefig(folder / f"{name}.png", dpi=150)
    with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        columns = "model word token n_sentences n_distinct claim rule verdict layers_held layers layer value low high"
        table.writerow(columns.split())
        for v in verdicts:
            about = [provenance, target.word, target.pieces[-1], len(target.positions), target.n_distinct]
            judged = [f"{v.number} {say(*v.claim.name)}", v.claim.rule(), label(f"verdict_{v.verdict}")]
            figures = [f"{value:.3f}" for value in (v.value, v.low, v.high)]
            table.writerow([*about, *judged, v.held, v.layers, layer, *figures])
    return f"{name}.png", f"{name}.csv"
