"""Unit costs of a survey on this machine, and what they add up to: the tables of docs/scale.md.

    OMP_NUM_THREADS=1 python -m tools.benchmarks.scale

One thread, medians of several runs.  The forward pass is that of SmolLM2 on its 54 sentences; the
other costs are those of random numbers of the given width, because they depend on the width alone.
"""

import resource
import tempfile
from statistics import mean

import torch

from helpers import block_histograms, capture_qkv, encode, load_model, load_sentences
from helpers.survey.moments import merge, moments
from helpers.survey.table import moment_histograms
from helpers.survey.tasks import BATCH_TOKENS, Store, Task, run_task
from tools.benchmarks.report import seconds, section, this_machine

MODELS = {  # sizes of Q, K and V, layers, parameters in the layers (they set the time of a forward pass)
    "SmolLM2-135M": ((576, 192, 192), 30, 106.2e6),
    "GPT-2 small": ((768, 768, 768), 12, 85.1e6),
    "GPT-2 XL": ((1600, 1600, 1600), 48, 1475.6e6),
}


def measure_model():
    """Seconds of loading, of a token and of a sentence, alone and in tasks of 54 and of 1080; KiB held at most."""
    load = seconds(lambda: load_model("smollm2", device="cpu"), repeat=3)
    model, tokenizer = load_model("smollm2", device="cpu")
    sentences = load_sentences("her")
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
    batch = encode(tokenizer, sorted(sentences, key=len)[: BATCH_TOKENS // max(lengths)])
    small, large = (Task("smollm2", "her", tuple(sentences * k), None, "cpu", "key") for k in (1, 20))
    n_tokens, n_large, contents = batch["input_ids"].numel(), len(large.sentences), []
    run_task(small)  # loads the model
    return {  # in this order
        "load": load,
        "n_tokens": n_tokens,
        "n_large": n_large,
        "length": mean(lengths),
        "small": seconds(lambda: run_task(small), repeat=3) / len(sentences),
        "before": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "large": seconds(lambda: contents.append(run_task(large))) / n_large,  # co-moments: more samples than F
        "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "partial": len(contents[0]),
        "forward": seconds(lambda: capture_qkv(model, batch), repeat=5) / n_tokens,
        "tokenize": seconds(lambda: tokenizer(sentences * 20), repeat=5) / n_large,
    }


def measure_width(name, sizes):
    """Seconds of the steps of one layer and one condition, with as many samples as features."""
    F = sum(sizes)
    x = torch.randn(F, F, generator=torch.Generator().manual_seed(0))
    total, content = moments(x), bytes(8 * F * F)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        steps = {
            "moments": lambda: moments(x),
            "merge": lambda: merge(total, total),
            "histograms": lambda: moment_histograms(total, sizes),
            "few": lambda: block_histograms(x[:54], sizes),
            "write": lambda: store.put("key", content),
        }
        took = {step: seconds(call, repeat=3 if F > 3000 else 5) for step, call in steps.items()}
    return {"name": name, "F": F, **took}


def estimate(t_sentence, widths, n_models=100, n=10**7):
    """What `n` samples in each of `n_models` models cost, if all were like this one; the first gave `t_sentence`."""
    t_parameter, rows = None, []
    for at, (_, n_layer, n_parameters) in zip(widths, MODELS.values(), strict=True):
        t_update, moment = 2 * n_layer * at["moments"] / at["F"], 8 * at["F"] ** 2
        t_parameter = t_parameter or (t_sentence - t_update) / n_parameters
        t, partial = t_parameter * n_parameters + t_update, 2 * n_layer * moment
        for shard in (10**4, 10**5, 10**6):
            n_tasks = n_models * n // shard
            row = {"name": at["name"], "shard": shard, "n_tasks": n_tasks, "partial": partial, "task": t * shard}
            row |= {"seconds": t * n * n_models, "traffic": n_tasks * partial}
            rows.append(row | {"received": n_tasks * 2 * n_layer * (at["write"] + at["merge"])})
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    model = measure_model()
    widths = [measure_width(name, sizes) for name, (sizes, *_) in MODELS.items()]
    facts = {"model": model, "widths": widths, "tasks": estimate(model["large"], widths)}
    print(section("scale", "en", machine=this_machine("torch"), **facts))
