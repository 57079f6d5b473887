"""The claims of notebooks 04 and 06 held against thresholds, for any model and any word, and an honest sentence.

Layer 0 stands aside: there the target is often the same in every sentence.
"""

import csv
import itertools
import operator
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from helpers.experiments.study import FEW, StudyError
from helpers.settings import say
from helpers.similarity import block_histograms
from helpers.statistics import jackknife, null_shares, smile_index, wasserstein_distance
from helpers.teaching.labels import label

COMPARE = {">": operator.gt, "≥": operator.ge, "<": operator.lt, "≤": operator.le}


FLOOR = 0.05  # by which the share of QK must exceed chance, whatever QQ and KK do
TOLERANCE = 0.05  # share of the layers that a claim which holds may miss


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
        ("|s| > 0.9: QK / mức cần có", "|s| > 0.9: QK / what it needs"),
        "≥",
        1,
    ),
    Claim(
        ("trừ trung bình: hết cười", "no smile without the mean"),
        ("S lớn nhất của tương quan", "largest S of the correlation"),
        "<",
        0,
    ),
    Claim(
        ("phần còn lại như nhiễu", "the rest like noise"),
        ("độ rộng / độ rộng của nhiễu", "width / width of noise"),
        "≤",
        1.2,
    ),
    Claim(
        ("các khối giống nhau", "the blocks become alike"),
        ("W1 lớn nhất giữa hai khối", "largest W1 between blocks"),
        "<",
        0.02,
    ),
    Claim(
        ("độ dời không phải nhiễu", "offsets are not noise"),
        ("cos của hai nửa − cos với đối chứng", "cos of the halves − cos with control"),
        "≥",
        0.05,
    ),
)
"""The first six as in notebook 06.  The last needs a second word there; here the control token stands for it."""


def deciding_figures(x, control, sizes, half=None):
    """The figure of each claim at each layer.

    Args:
        x, control: the target and the control token, `[layer, sentence, F]`.
        sizes: features of Q, K and V.
        half: `[sentence]` of 0 and 1, which half of the sentences each belongs to; None takes turns.

    Returns:
        float64 `[claim, layer]`; NaN where it is undefined (a target that is the same in every sentence).
    """
    half = torch.arange(x.shape[1]) % 2 if half is None else half
    cosine, correlation = block_histograms(x, sizes).values()
    bells = [h for _, h in correlation.items()]
    smile = {block: smile_index(h) for block, h in cosine.items()}
    lowest = torch.minimum(smile["QQ"], smile["KK"])
    share = {block: h.share_above for block, h in cosine.items()}
    middle = (cosine.edges[1:] + cosine.edges[:-1]).abs() / 2
    by_chance = float(null_shares(x.shape[1], "cosine", cosine.edges)[middle > 0.9].sum())
    needed = ((share["QQ"] + share["KK"]) / 4).clamp(min=by_chance + FLOOR)
    mean, *halves = (y.double().mean(dim=1) for y in (x, *(x[:, (half == side).to(x.device)] for side in (0, 1))))
    alike = torch.cosine_similarity(mean, control.double().mean(dim=1), dim=-1)
    return torch.stack(
        [
            lowest,
            smile["VV"] - lowest,
            share["QK"] / needed,
            torch.stack([smile_index(h) for h in bells]).amax(0),
            torch.stack([h.std for h in bells]).amax(0) * (x.shape[1] - 1) ** 0.5,
            torch.stack([wasserstein_distance(a, b) for a, b in itertools.combinations(bells, 2)]).amax(0),
            torch.cosine_similarity(*halves, dim=-1) - alike,
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


def judge(x, control, sizes, layer):
    """Verdicts on all claims over the layers of `x` `[layer, sentence, F]`, with intervals at one layer.

    A claim holds at 95% of the layers or more, fails at 5% or less, and holds partly in between.
    """
    n = x.shape[1]
    figures = deciding_figures(x, control, sizes)  # [claim, layer]

    def without_some(rows):  # rows [sentence, 1]: each sentence stays in its half
        rows, at = rows.flatten(), slice(layer, layer + 1)
        return deciding_figures(x[at, rows], control[at, rows], sizes, rows % 2)[:, 0]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="with 2 token")  # three sentences, and one left out
        interval = jackknife(torch.arange(n).view(n, 1), without_some)
    verdicts = []
    for i, claim in enumerate(CLAIMS):
        defined = figures[i, 1:][~figures[i, 1:].isnan()]
        held = int(claim.holds(defined).sum())
        share = held / max(1, len(defined))
        verdict = "holds" if share >= 1 - TOLERANCE else "fails" if share <= TOLERANCE else "partly"
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
    q = x[layer, :, : sizes[0]].double()  # [sentence, feature]
    energy = float((q.mean(dim=0).square() / q.square().mean(dim=0)).nanmean())
    lines.append(
        say(
            f"Ở tầng {layer}, độ dời chiếm {energy:.0%} năng lượng của Q (trên 58% thì QQ cười).",
            f"At layer {layer} the offset has {energy:.0%} of the energy of Q (above 58% QQ smiles).",
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
            say(
                "Cẩn thận: ít câu đến mức dữ liệu ngẫu nhiên cũng cho hình nụ cười.",
                "Careful: so few sentences that chance smiles too.",
            )
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
