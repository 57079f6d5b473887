"""Unit costs of a survey on this machine, and what they add up to: the tables of docs/scale.md.

    OMP_NUM_THREADS=1 python -m tools.benchmarks.scale

One thread, medians of several runs.  The forward pass is that of SmolLM2 on its 54 sentences; the
other costs are those of random numbers of the given width, because they depend on the width alone.
"""

import platform
import resource
import statistics
import tempfile
import time

import torch

from helpers import block_histograms, capture_qkv, encode, load_model, load_sentences
from helpers.survey.moments import merge, moment_histograms, moments
from helpers.survey.tasks import BATCH_TOKENS, Store, Task, run_task
from tools.benchmarks.report import once, processor

WIDTHS = {"SmolLM2-135M": (576, 192, 192), "GPT-2 small": (768, 768, 768), "F = 4800": (1600, 1600, 1600)}


def seconds(call, repeat=5):
    """Median wall time of a call."""
    return statistics.median(once(call) for _ in range(repeat))


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def measure_model():
    """Loading, the forward pass of one token, and a whole task of 1024 sentences."""
    t_load = seconds(lambda: load_model("smollm2", device="cpu"), repeat=3)
    model, tokenizer = load_model("smollm2", device="cpu")
    sentences = load_sentences("her")
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
    batch = encode(tokenizer, sorted(sentences, key=len)[: BATCH_TOKENS // max(lengths)])
    n_samples = batch["input_ids"].numel()
    t_forward = seconds(lambda: capture_qkv(model, batch)) / n_samples
    t_words = seconds(lambda: tokenizer(sentences * 20)) / (20 * len(sentences))
    task = Task("smollm2", "her", tuple(sentences), None, "cpu", "key")
    run_task(task)  # loads the model
    t_task = seconds(lambda: run_task(task), repeat=3) / len(sentences)
    row("SmolLM2 on the 54 sentences", "")
    row("---", "---")
    row("load the model from the cache", f"{t_load:.1f} s")
    row(f"forward pass with capture, all 30 layers, a batch of {n_samples} tokens", f"{1e3 * t_forward:.2f} ms a token")
    row("tokens a sentence", f"{statistics.mean(lengths):.1f}")
    row("tokenize", f"{1e6 * t_words:.0f} µs a sentence")
    row("a whole task (target and control)", f"{1e3 * t_task:.1f} ms a sentence")
    large = Task("smollm2", "her", tuple(sentences * 20), None, "cpu", "key")  # more tokens than features: co-moments
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = run_task(large)
    t_large, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row(
        f"a task of {len(large.sentences)} sentences (co-moments)",
        f"{1e3 * t_large / len(large.sentences):.1f} ms a sentence",
    )
    row("its partial sums", f"{len(content) / 1e6:.0f} MB")
    row("most memory of the process, before and after", f"{before / 1e6:.2f} and {peak / 1e6:.2f} GB")
    print()
    return t_large / len(large.sentences)


def measure_width(name, sizes):
    """Costs of one layer and one condition."""
    F = sum(sizes)
    x = torch.randn(F, F, generator=torch.Generator().manual_seed(0))
    total = moments(x)
    repeat = 3 if F > 3000 else 5
    t_moments = seconds(lambda: moments(x), repeat)
    t_merge = seconds(lambda: merge(total, total), repeat)
    t_moment_histograms = seconds(lambda: moment_histograms(total, sizes), repeat)
    t_rows = seconds(lambda: block_histograms(x[:54], sizes), repeat)
    with tempfile.TemporaryDirectory() as folder:
        store, content = Store(folder), bytes(8 * F * F)
        t_put = seconds(lambda: store.put("key", content), repeat)
    row(
        name,
        F,
        f"{8 * F * F / 1e6:.1f}",
        f"{1e6 * t_moments / F:.0f}",
        f"{1e12 * t_moments / F**3:.0f}",
        f"{1e3 * t_merge:.0f}",
        f"{1e3 * t_moment_histograms:.0f}",
        f"{1e3 * t_rows:.0f}",
        f"{1e3 * t_put:.0f}",
    )
    return t_moments / F, 8 * F * F / (t_put + t_merge)  # an update; bytes a second that the client can take in


SHAPES = {  # layers, features, parameters in the layers (they set the time of a forward pass)
    "SmolLM2-135M": (30, 960, 106.2e6),
    "GPT-2 small": (12, 2304, 85.1e6),
    "GPT-2 XL": (48, 4800, 1475.6e6),
}


def estimate(t_sentence, units, n_models=100, n=10**7):
    """What `n` occurrences in each of `n_models` models like this one cost."""
    row(
        "all models like",
        "core hours",
        "sentences a task",
        "hours a task",
        "MB a task",
        "tasks",
        "traffic, TB",
        "client hours",
    )
    row(*["---"] * 8)
    n_layer, F, n_parameters = SHAPES["SmolLM2-135M"]
    t_parameter = (t_sentence - 2 * n_layer * units[F][0]) / n_parameters  # without the co-moments
    for name, (n_layer, F, n_parameters) in SHAPES.items():
        t = t_parameter * n_parameters + 2 * n_layer * units[F][0]
        for shard in (10**4, 10**5, 10**6):
            partial, n_tasks = 2 * n_layer * 8 * F * F, n_models * n // shard
            row(
                name,
                f"{t * n * n_models / 3600:,.0f}",
                f"{shard:,}",
                f"{t * shard / 3600:.1f}",
                f"{partial / 1e6:,.0f}",
                f"{n_tasks:,}",
                f"{n_tasks * partial / 1e12:,.1f}",
                f"{n_tasks * partial / units[F][1] / 3600:,.0f}",
            )


def main():
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {processor()}, one thread\n")
    t_sentence = measure_model()
    row("model", "F", "co-moment, MB", "its update, µs a row", "ps a row and F²", "merge, ms", "histograms, ms",
        "histograms of 54 rows, ms", "checksum and write, ms")  # fmt: skip
    row(*["---"] * 9)
    units = {sum(sizes): measure_width(name, sizes) for name, sizes in WIDTHS.items()}
    print()
    estimate(t_sentence, units)


if __name__ == "__main__":
    main()
