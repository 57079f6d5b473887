"""Unit costs of a survey on this machine, and what they add up to: the tables of docs/scale.md.

    OMP_NUM_THREADS=1 python -m tools.benchmarks.scale

One thread, medians of several runs.  The forward pass is that of SmolLM2 on its 54 sentences; the
other costs are those of random numbers of the given width, because they depend on the width alone.
"""

import platform
import resource
import statistics
import tempfile

import torch

from helpers import block_histograms, capture_qkv, encode, load_model, load_sentences
from helpers.survey.moments import merge, moments
from helpers.survey.table import moment_histograms
from helpers.survey.tasks import BATCH_TOKENS, Store, Task, run_task
from tools.benchmarks.report import once, processor

WIDTHS = {"SmolLM2-135M": (576, 192, 192), "GPT-2 small": (768, 768, 768), "F = 4800": (1600, 1600, 1600)}
SHAPES = {  # layers, features, parameters in the layers (they set the time of a forward pass)
    "SmolLM2-135M": (30, 960, 106.2e6),
    "GPT-2 small": (12, 2304, 85.1e6),
    "GPT-2 XL": (48, 4800, 1475.6e6),
}


def seconds(call, repeat=5):  # median wall time
    return statistics.median(once(call) for _ in range(repeat))


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(names):
    columns = names.split("; ")
    row(*columns)
    row(*["---"] * len(columns))


def measure_model():
    """Loading, the forward pass of one token, and a whole task of 54 and of 1080 sentences; seconds a sentence."""
    t_load = seconds(lambda: load_model("smollm2", device="cpu"), repeat=3)
    model, tokenizer = load_model("smollm2", device="cpu")
    sentences = load_sentences("her")
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
    batch = encode(tokenizer, sorted(sentences, key=len)[: BATCH_TOKENS // max(lengths)])
    n, contents = batch["input_ids"].numel(), []
    small, large = (Task("smollm2", "her", tuple(sentences * k), None, "cpu", "key") for k in (1, 20))
    run_task(small)  # loads the model
    t_small = seconds(lambda: run_task(small), repeat=3) / len(small.sentences)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    t_large = once(lambda: contents.append(run_task(large))) / len(large.sentences)  # co-moments: more samples than F
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward, words = seconds(lambda: capture_qkv(model, batch)) / n, seconds(lambda: tokenizer(sentences * 20))
    head("SmolLM2 on the 54 sentences; ")
    row("load the model from the cache", f"{t_load:.1f} s")
    row(f"forward pass with capture, all 30 layers, a batch of {n} tokens", f"{1e3 * forward:.2f} ms a token")
    row("tokens a sentence", f"{statistics.mean(lengths):.1f}")
    row("tokenize", f"{1e6 * words / len(large.sentences):.0f} µs a sentence")
    row("a whole task (target and control)", f"{1e3 * t_small:.1f} ms a sentence")
    row(f"a task of {len(large.sentences)} sentences (co-moments)", f"{1e3 * t_large:.1f} ms a sentence")
    row("its partial sums", f"{len(contents[0]) / 1e6:.0f} MB")
    row("most memory of the process, before and after", f"{before / 1e6:.2f} and {after / 1e6:.2f} GB")
    print()
    return t_large


def measure_width(name, sizes):
    """Costs of one layer and one condition; returns the seconds of an update, and bytes a second that a client takes."""
    F = sum(sizes)
    x = torch.randn(F, F, generator=torch.Generator().manual_seed(0))
    total, repeat = moments(x), 3 if F > 3000 else 5
    t_moments, t_merge = seconds(lambda: moments(x), repeat), seconds(lambda: merge(total, total), repeat)
    t_histograms = seconds(lambda: moment_histograms(total, sizes), repeat)
    t_rows = seconds(lambda: block_histograms(x[:54], sizes), repeat)
    with tempfile.TemporaryDirectory() as folder:
        store, content = Store(folder), bytes(8 * F * F)
        t_put = seconds(lambda: store.put("key", content), repeat)
    costs = (1e6 * t_moments / F, 1e12 * t_moments / F**3, *(1e3 * t for t in (t_merge, t_histograms, t_rows, t_put)))
    row(name, F, f"{8 * F * F / 1e6:.1f}", *(f"{cost:.0f}" for cost in costs))
    return t_moments / F, 8 * F * F / (t_put + t_merge)


def estimate(t_sentence, units, n_models=100, n=10**7):
    """What `n` samples in each of `n_models` models like this one cost."""
    head("all models like; core hours; sentences a task; hours a task; MB a task; tasks; traffic, TB; client hours")
    n_layer, F, n_parameters = SHAPES["SmolLM2-135M"]
    t_parameter = (t_sentence - 2 * n_layer * units[F][0]) / n_parameters  # without the co-moments
    for name, (n_layer, F, n_parameters) in SHAPES.items():
        t, partial = t_parameter * n_parameters + 2 * n_layer * units[F][0], 2 * n_layer * 8 * F * F
        for shard in (10**4, 10**5, 10**6):
            n_tasks = n_models * n // shard
            traffic, hours = n_tasks * partial, f"{t * shard / 3600:.1f}"
            cells = f"{shard:,}", hours, f"{partial / 1e6:,.0f}", f"{n_tasks:,}", f"{traffic / 1e12:,.1f}"
            row(name, f"{t * n * n_models / 3600:,.0f}", *cells, f"{traffic / units[F][1] / 3600:,.0f}")


def main():
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {processor()}, one thread\n")
    t_sentence = measure_model()
    costs = "its update, µs a row; ps a row and F²; merge, ms; histograms, ms; histograms of 54 rows, ms"
    head(f"model; F; co-moment, MB; {costs}; checksum and write, ms")
    units = {sum(sizes): measure_width(name, sizes) for name, sizes in WIDTHS.items()}
    print()
    estimate(t_sentence, units)


if __name__ == "__main__":
    main()
