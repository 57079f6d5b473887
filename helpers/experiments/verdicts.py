"""The claims of notebooks 04 and 06 held against thresholds, for any model and any word, and an honest sentence.

Layer 0 stands aside: there the target is often the same in every sentence.
"""

import csv
import itertools
import math
import operator
import re
import tomllib
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import torch

from helpers.baselines import null_shares
from helpers.experiments.study import FEW, StudyError
from helpers.settings import message, say
from helpers.similarity import FewSamplesWarning, block_histograms
from helpers.statistics import jackknife, smile_index, wasserstein_distance
from helpers.teaching.labels import label
from helpers.text import DATA

COMPARE = {">": operator.gt, "≥": operator.ge, "<": operator.lt, "≤": operator.le}
FLOOR = 0.05  # by which the share of QK must exceed chance, whatever QQ and KK do
COLUMNS = "model word token n_sentences n_distinct claim rule verdict layers_held layers layer value low high"
TOLERANCE = 0.05  # share of the layers that a claim which holds may miss


class Claim(NamedTuple):
    """A claim, the value that decides it, and the threshold; `name` and `value` are [Vietnamese, English]."""

    sign: str
    threshold: float
    name: list
    value: list

    def rule(self):
        return f"{say(*self.value)} {self.sign} {self.threshold:g}"


ROWS = tomllib.loads(DATA.joinpath("claims.toml").read_text(encoding="utf-8"))
CLAIMS = tuple(Claim(rule[0], float(rule[1:]), **texts) for rule, texts in ROWS.items())


def claim_values(x, control, sizes, half=None):
    """The value that decides each claim, at each layer: float64 `[claim, layer]`.

    NaN where it is undefined (a target that is the same in every sentence).

    Args:
        x, control: the target and the control token, `[layer, sentence, F]`.
        sizes: features of Q, K and V.
        half: `[sentence]` of 0 and 1, which half of the sentences each belongs to; None takes turns.
    """
    half = torch.arange(x.shape[1]) % 2 if half is None else half
    cosine, correlation = block_histograms(x, sizes).values()
    bells = [h for _, h in correlation.items()]
    smile = {block: smile_index(h) for block, h in cosine.items()}
    lowest = torch.minimum(smile["QQ"], smile["KK"])
    share = {block: h.share_above for block, h in cosine.items()}
    by_chance = float(null_shares(x.shape[1], "cosine", cosine.edges)[cosine["QK"].centers.abs() > 0.9].sum())
    needed = ((share["QQ"] + share["KK"]) / 4).clamp(min=by_chance + FLOOR)
    mean, *halves = (y.double().mean(dim=1) for y in (x, *(x[:, (half == side).to(x.device)] for side in (0, 1))))
    alike = torch.cosine_similarity(mean, control.double().mean(dim=1), dim=-1)
    values = [
        lowest,
        smile["VV"] - lowest,
        share["QK"] / needed,
        torch.stack([smile_index(h) for h in bells]).amax(0),
        torch.stack([h.std for h in bells]).amax(0) * (x.shape[1] - 1) ** 0.5,
        torch.stack([wasserstein_distance(a, b) for a, b in itertools.combinations(bells, 2)]).amax(0),
        torch.cosine_similarity(*halves, dim=-1) - alike,
    ]
    return torch.stack(values).cpu()


class Verdict(NamedTuple):
    """The verdict on one claim, and the value that decides it at one layer."""

    number: int
    claim: Claim
    verdict: str  #: "holds", "partly", "fails" or "undefined", over all layers but layer 0
    held: int
    layers: int
    value: float  #: at the layer shown; then its 95% jackknife interval
    low: float
    high: float

    @property
    def undecided(self):
        """Whether the threshold lies in the interval."""
        return self.low <= self.claim.threshold <= self.high


def judge(x, control, sizes, layer):
    """Verdicts on all claims over the layers of `x` `[layer, sentence, F]`, with intervals at one layer.

    A claim holds at 95% of the layers or more, fails at 5% or less, and holds partly in between.
    """
    values = claim_values(x, control, sizes)  # [claim, layer]

    def without_some(rows):  # rows [sentence, 1]: each sentence stays in its half
        rows, at = rows.flatten(), slice(layer, layer + 1)
        return claim_values(x[at, rows], control[at, rows], sizes, rows % 2)[:, 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)  # three sentences, and one left out
        interval = jackknife(torch.arange(x.shape[1]).unsqueeze(1), without_some)
    verdicts = []
    for i, claim in enumerate(CLAIMS):
        defined = values[i, 1:][~values[i, 1:].isnan()]
        held, n_layer = int(COMPARE[claim.sign](defined, claim.threshold).sum()), len(defined)
        verdict = "holds" if held >= (1 - TOLERANCE) * n_layer else "fails" if held <= TOLERANCE * n_layer else "partly"
        shown = (float(part[i]) for part in interval[:3])
        verdicts.append(Verdict(i + 1, claim, verdict if n_layer else "undefined", held, n_layer, *shown))
    return verdicts


def choose_layer(n_layer, wanted=None):
    """The layer to show: the one wanted, else a tenth of the depth, as in notebooks 05 and 06, but never layer 0."""
    if n_layer < 2:
        raise StudyError(message("one_layer"))
    if wanted in (None, ""):
        return max(1, n_layer // 10)
    if not re.fullmatch(r"\d+", str(wanted)) or int(wanted) >= n_layer:
        raise StudyError(message("wrong_layer", wanted=wanted, last=n_layer - 1))
    return int(wanted)


def conclude(verdicts, x, sizes, layer, target):
    """What may be said, what may not, and why: lines of text in the language in use, one after the other."""
    for verdict in ("holds", "partly", "fails", "undefined"):
        if names := ", ".join(f"({v.number}) {say(*v.claim.name)}" for v in verdicts if v.verdict == verdict):
            yield f"{label('verdict_' + verdict).capitalize()}: {names}."
    if open_ones := ", ".join(f"({v.number})" for v in verdicts if v.undecided):
        yield message("undecided", layer=layer, which=open_ones)
    if any(math.isnan(v.value) for v in verdicts):
        yield message("undefined_here", layer=layer)
    q = x[layer, :, : sizes[0]].double()  # [sentence, feature]
    energy = float((q.mean(dim=0).square() / q.square().mean(dim=0)).nanmean())
    yield message("offset_energy", layer=layer, energy=energy)
    n, n_distinct = x.shape[1], target.n_distinct
    if n_distinct < n:
        yield message("repeated", n=n, n_distinct=n_distinct)
    if min(n, n_distinct) < FEW:
        yield message("chance_smiles")
    if len(target.pieces) > 1:
        yield message("last_piece", piece=target.pieces[-1], word=target.word)
    yield message("no_more")


def file_name(text):
    """A text as the name of a file on any system; a number keeps two texts apart where signs are lost or it is long.

    >>> file_name("của Qwen2.5-0.5B"), file_name("$$ m"), file_name("/ m")
    ('của_Qwen2.5-0.5B', 'm-97d7300e', 'm-6ad7e188')
    """
    name = re.sub(r"[^\w.-]+", "_", text).strip("._").encode()[:120].decode(errors="ignore")
    number = zlib.crc32(text.encode(errors="surrogatepass"))
    return name if name == text.replace(" ", "_") else f"{name}-{number:08x}"


def export(figure, verdicts, target, provenance, layer, folder="my_study"):
    """Write the figure as PNG and the verdicts as CSV (UTF-8, opens in a spreadsheet); returns the file names."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    name = file_name(f"{target.word} {provenance.split(' (')[0]}")
    figure.savefig(folder / f"{name}.png", dpi=150)
    with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS.split())
        for v in verdicts:
            about = [provenance, target.word, target.pieces[-1], len(target.positions), target.n_distinct]
            judged = [f"{v.number} {say(*v.claim.name)}", v.claim.rule(), label(f"verdict_{v.verdict}")]
            values = [f"{value:.3f}" for value in (v.value, v.low, v.high)]
            table.writerow([*about, *judged, v.held, v.layers, layer, *values])
    return f"{name}.png", f"{name}.csv"
