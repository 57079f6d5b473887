"""Unit costs of a survey on this machine, and what they add up to: the tables of docs/scale.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/scale.py

One thread, medians of several runs.  The forward pass is that of SmolLM2 on its 54 sentences; the
other costs are those of random numbers of the given width, because they depend on the width alone.
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from helpers import block_histograms, capture_qkv, encode, load_model, load_sentences
from helpers.moments import merge, moment_histograms, moments
from helpers.partials import BATCH_TOKENS, Store, Task, run_task

WIDTHS = {"SmolLM2-135M": (576, 192, 192), "GPT-2 small": (768, 768, 768), "F = 4800": (1600, 1600, 1600)}


def seconds(call, repeat=5):
    """Median wall time of a call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def measure_model():
    """Loading, the forward pass of one token, and a whole task of 1024 sentences."""
    t_load = seconds(lambda: load_model("smollm2", device="cpu"), repeat=3)
    model, tokenizer = load_model("smollm2", device="cpu")
    sentences = load_sentences("her")
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
    batch = encode(tokenizer, sorted(sentences, key=len)[: BATCH_TOKENS // max(lengths)])
    n_tokens = batch["input_ids"].numel()
    t_forward = seconds(lambda: capture_qkv(model, batch)) / n_tokens
    t_words = seconds(lambda: tokenizer(sentences * 20)) / (20 * len(sentences))
    task = Task("smollm2", "her", tuple(sentences), None, "cpu", "key")
    run_task(task)  # loads the model
    t_task = seconds(lambda: run_task(task), repeat=3) / len(sentences)
    row("SmolLM2 on the 54 sentences", "")
    row("---", "---")
    row("load the model from the cache", f"{t_load:.1f} s")
    row(f"forward pass with capture, all 30 layers, a batch of {n_tokens} tokens", f"{1e3 * t_forward:.2f} ms a token")
    row("tokens a sentence", f"{statistics.mean(lengths):.1f}")
    row("tokenize", f"{1e6 * t_words:.0f} µs a sentence")
    row("a whole task (target and control)", f"{1e3 * t_task:.1f} ms a sentence")
    print()


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


def main():
    torch.set_num_threads(1)
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {cpu}, one thread\n")
    measure_model()
    row("model", "F", "co-moment, MB", "its update, µs a row", "ps a row and F²", "merge, ms", "histograms, ms",
        "histograms of 54 rows, ms", "checksum and write, ms")  # fmt: skip
    row(*["---"] * 9)
    for name, sizes in WIDTHS.items():
        measure_width(name, sizes)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
