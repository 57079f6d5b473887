"""The table of a survey: from the partial sums of finished tasks to a parquet file.

One row a model, target, layer, condition, block and measure, in that order.  What the columns are and hold is in
helpers/data/survey.toml, and in the metadata of the file: `parquet.read_schema(out).field("n_distinct").metadata`.
"""

import csv
import os
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from helpers.baselines import null_shares, shuffle_entries, shuffle_within_features
from helpers.experiments.study import FEWEST, StudyError
from helpers.kernels.features import features_of
from helpers.kernels.precision import one_thread
from helpers.masks import BLOCKS, MEASURES
from helpers.settings import message, say
from helpers.similarity import block_histograms, product_histograms
from helpers.statistics import effective_n, smile_index
from helpers.survey.moments import Moments
from helpers.survey.tasks import CPU, MEASURED, add, code_version, short_hash

SHUFFLES = {"entries_shuffled": shuffle_entries, "within_shuffled": shuffle_within_features}
COLUMNS = Path(__file__).parents[1] / "data" / "survey.toml"


@torch.no_grad()
def moment_histograms(total, sizes, **options):
    """`block_histograms` out of moments: the same result by the same rules, whatever the number of samples.

    Args:
        total: `Moments` of all samples of one layer, at least two for the correlation.
        sizes, options: as in `block_histograms`.

    Returns:
        `{measure: BlockHistograms}` without leading dimensions; beyond the co-moment, one band of rows is held.
    """
    std = (total.comoment.diagonal() / total.count).clamp_min(0).sqrt()  # [F]
    scale = 1 / (std * total.count**0.5).clamp_min(torch.finfo(torch.float64).tiny)

    def correlations(i, j):
        return total.comoment[i, j] * scale[i, None] * scale[j]  # [row, column]

    features = features_of(total.mean, std, total.dtype)
    return product_histograms([(features, correlations)], sizes, n_samples=total.count, device=std.device, **options)


def table_rows(tasks, store):
    """Rows of one model and target, layer by layer: no more than a few partial sums are in memory."""
    model, target = tasks[0].model, tasks[0].target
    infos = [store.info(task.key) for task in tasks]
    n, n_skipped = sum(info["n"] for info in infos), sum(info["n_skipped"] for info in infos)
    sources = sorted({(info["provenance"], info["code"]) for info in infos})
    if len(sources) > 1:
        raise StudyError(message("two_models", sources=sources, folder=store.folder))
    if n < FEWEST:
        raise StudyError(message("few_usable", n=n, all=n + n_skipped, target=target, fewest=FEWEST))
    provenance, keys = sources[0][0], [task.key for task in tasks]
    common = {"model": model, "provenance": provenance, "target": target, "n_samples": n, "n_skipped": n_skipped}
    common["n_distinct"] = store.n_distinct(keys)
    filled = next(info for info in infos if info["n"])
    for layer in filled["layers"]:
        totals = {condition: _merged(store, keys, condition, layer) for condition in MEASURED}
        if not isinstance(totals["target"], Moments):
            for condition, shuffle in SHUFFLES.items():
                seed = int(short_hash(provenance, target, layer, condition)[:15], 16)
                totals[condition] = shuffle(totals["target"], torch.Generator().manual_seed(seed))
        for condition, total in totals.items():
            histograms = (moment_histograms if isinstance(total, Moments) else block_histograms)(total, filled["sizes"])
            for block, measure in product(BLOCKS, MEASURES):
                row = {"layer": layer, "condition": condition, "block": block, "measure": measure}
                yield common | row | _numbers(histograms[measure][block], measure, n)


def _merged(store, keys, condition, layer):
    """Merged in a binary tree over the order of the shards, whatever order they were finished in."""
    if len(keys) == 1:
        return store.partial(keys[0], condition, layer)
    half = len(keys) // 2
    return add(_merged(store, keys[:half], condition, layer), _merged(store, keys[half:], condition, layer))


def _numbers(histogram, measure, n):
    null = null_shares(n, measure, histogram.edges)  # [bins]
    return {
        **{name: getattr(histogram, name).item() for name in ("n_pairs", "n_undefined", "mean", "std", "share_above")},
        "smile_index": smile_index(histogram).item(),
        "effective_n": effective_n(histogram, measure).item(),
        "null_std": (n - (measure == "correlation")) ** -0.5,
        "null_share_above": null[histogram.centers.abs() > 0.9].sum().item(),
        "null_smile_index": smile_index(replace(histogram, counts=null)).item(),
        "counts": histogram.counts.tolist(),
    }


def write_table(out, groups, failed, store):
    """The table, one row group a model and target; a group that fails is left out and reported in `failed`."""
    import pyarrow as pa
    from pyarrow import parquet

    types, versions = {"list": pa.list_(pa.int64())}, {"torch": torch.__version__, "code": code_version()}
    columns = tomllib.loads(COLUMNS.read_text(encoding="utf-8"))
    fields = [
        pa.field(name, types.get(kind, kind), metadata={"holds": holds}) for name, (kind, holds) in columns.items()
    ]
    schema = pa.schema(fields, metadata=versions | {"transformers": transformers.__version__})
    staging = store.folder / "table.tmp"  # what is left there is thrown away by `Store.find`
    with parquet.ParquetWriter(staging, schema) as writer, one_thread(CPU):
        for group, tasks in tqdm(groups.items(), desc=say("lập bảng", "table"), leave=False):
            if group in failed:
                continue
            try:
                rows = list(table_rows(tasks, store))
            except ValueError as error:
                failed[group] = str(error)
            else:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    os.replace(staging, out)
    report = out.with_name(out.name + ".errors.csv")
    report.unlink(missing_ok=True)
    if failed:
        with report.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("model", "target", "error"), *((*g, e) for g, e in failed.items())])
