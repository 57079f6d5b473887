"""Measure every method interleaved, and write the tables of docs/performance.md and docs/performance.vi.md.

python -m tools.benchmarks.report measure    (some ten minutes; writes results.json)
python -m tools.benchmarks.report write      (the pages out of results.json, and gpu.json where tools.prove_gpu ran)
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS, GPU = HERE / "results.json", HERE / "gpu.json"
PAGES = {"en": ROOT / "docs" / "performance.md", "vi": ROOT / "docs" / "performance.vi.md"}
TEXT = yaml.safe_load((HERE / "words.yml").read_text(encoding="utf-8"))

ROUNDS = {(54, 2304): 12, (54, 4800): 5, (5000, 2304): 4}
SLOW = {("scipy pdist", (5000, 2304))}  # once is enough
LAYERS = {(12, 54, 2304): 3, (48, 54, 4800): 1}
GROWTH = {
    "tokens": [(n, 2304) for n in (54, 100, 200, 300, 500, 1000, 2000, 5000)],
    "features": [(54, n_features) for n_features in (576, 1152, 2304, 3072, 4800)],
    "layers": [(n_layers, 54, 2304) for n_layers in (1, 12, 48)],
}
GOALS = {"54 x 2304": 30, "5000 x 2304": 2.5}
NOTEBOOK, OURS, TORCH = "notebook, both measures", "block_histograms, numba", "block_histograms, torch"


def once(function, *arguments):
    """Seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def turn(function, *arguments, least=0.25):
    """(first call after a pause, median of the calls that follow for `least` seconds)."""
    time.sleep(0.15)  # OpenBLAS threads of the method before spin for some 110 ms
    first = once(function, *arguments)
    calls = [once(function, *arguments)]
    while sum(calls) < least:
        calls.append(once(function, *arguments))
    return first, median(calls)


def data(*shape):
    """float32 `[..., sample, F]`, torch: a few common directions, noise, and a mean offset for each feature."""
    import torch

    generator = torch.Generator().manual_seed(0)
    *batch, n, n_features = shape
    x = torch.randn(*batch, n, 8, generator=generator) @ torch.randn(*batch, 8, n_features, generator=generator)
    return x + 2 * torch.randn(shape, generator=generator) + 2 * torch.randn(*batch, 1, n_features, generator=generator)


def sizes_of(n_features):
    return (n_features // 3,) * 3


def above(function, *arguments):
    """MiB that a call holds at its peak above what was held before; alone in a process, on Linux."""

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    function(*arguments)
    return status("VmHWM") - before


def peak(name, *shape):
    """Print what `above` gives for a method."""
    from tools.benchmarks.methods import METHODS

    function, x = METHODS[name], data(*shape).numpy()
    function(data(54, 300).numpy(), sizes_of(300))  # its code is loaded
    print(above(function, x, sizes_of(shape[-1])))


def measure_shape(shape, rounds):
    """Every method and the limit, turn by turn, round by round."""
    import torch

    from tools.benchmarks import limits
    from tools.benchmarks.methods import METHODS

    n_features = shape[1]
    x, sizes = data(*shape).numpy(), sizes_of(n_features)
    calls = {name: partial(function, x, sizes) for name, function in METHODS.items()}
    calls["product"] = limits.product(*shape)
    calls["binning"] = limits.binning(n_features * (n_features - 1) // 2, torch.get_num_threads())
    for name in ("binning", OURS, TORCH):
        calls[name]()  # compiled, loaded
    first, times = ({name: [] for name in calls} for _ in range(2))
    for round_ in range(rounds):
        for name, call in calls.items():
            slow = (name, shape) in SLOW
            if not slow or round_ == 0:
                found = (once(call),) * 2 if slow else turn(call)
                first[name].append(found[0])
                times[name].append(found[1])
    memory = {}
    for name in METHODS if shape == (54, 2304) else (NOTEBOOK, OURS, TORCH):
        command = [sys.executable, "-m", "tools.benchmarks.report", "peak", name, *map(str, shape)]
        memory[name] = float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    ratios = [a / b for a, b in zip(times[NOTEBOOK], times[OURS], strict=True)]
    return {
        "ms": {name: 1e3 * median(values) for name, values in times.items()},
        "fastest_ms": {name: 1e3 * min(values) for name, values in times.items()},
        "first_ms": {name: 1e3 * median(values) for name, values in first.items()},
        "mib": memory,
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "rounds": rounds,
    }


def measure_layers(shape, rounds):
    from tools.benchmarks.methods import METHODS

    x, sizes = data(*shape).numpy(), sizes_of(shape[-1])
    METHODS[OURS](x[0], sizes)  # compiled, loaded
    found = {NOTEBOOK: [], OURS: [], TORCH: []}
    for _ in range(rounds):
        time.sleep(0.15)
        found[NOTEBOOK].append(once(lambda: [METHODS[NOTEBOOK](layer, sizes) for layer in x]))
        for name in (OURS, TORCH):
            found[name].append(once(METHODS[name], x, sizes))
    return {"ms": {name: 1e3 * median(v) for name, v in found.items()}, "rounds": rounds}


def measure_growth(shapes):
    """ms of both of our paths, the shapes interleaved."""
    from tools.benchmarks.methods import METHODS

    rows = [{"shape": list(shape), "numba": [], "torch": []} for shape in shapes]
    inputs = [data(*shape).numpy() for shape in shapes]
    for _ in range(4):
        for kernel in ("numba", "torch"):
            for x, row in zip(inputs, rows, strict=True):
                call = METHODS[f"block_histograms, {kernel}"]
                row[kernel].append(turn(call, x, sizes_of(x.shape[-1]), least=0.05)[1])
    return [row | {kernel: 1e3 * median(row[kernel]) for kernel in ("numba", "torch")} for row in rows]


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def this_machine(*packages):
    """{processor, cores, python, versions} for the line below a table."""
    found = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    return found | {"versions": {name: version(name) for name in packages}}


def measure():
    import torch

    from helpers.kernels import compile_kernels
    from tools.benchmarks import limits

    compile_kernels()
    load = os.getloadavg()[0]
    results = {"shapes": {}, "layers": {}}
    for kind, wanted, how in (("shapes", ROUNDS, measure_shape), ("layers", LAYERS, measure_layers)):
        for shape, rounds in wanted.items():
            results[kind][" x ".join(map(str, shape))] = how(shape, rounds)
            print(shape, "measured", flush=True)
    results["growth"] = {name: measure_growth(shapes) for name, shapes in GROWTH.items()}
    results["machine"] = this_machine("torch", "numpy", "numba", "scipy", "scikit-learn", "torchmetrics") | {
        "threads": torch.get_num_threads(),
        "gflops": limits.product_rate(),
        "bandwidth": limits.bandwidth(),
        "load": [load, os.getloadavg()[0]],
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def decimals(text, language):
    """The text with its numbers as the language writes them: 2.5, but 2,5 in Vietnamese."""
    return re.sub(r"(?<=\d)\.(?=\d)", ",", text) if language == "vi" else text


def versions(machine):
    return ", ".join(f"{name} {v}" for name, v in {"Python": machine["python"], **machine["versions"]}.items())


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def limit(shape, key):
    return shape[key]["product"] + shape[key]["binning"]


def goals(results, language):
    """The goals, by the medians; the fastest rounds beside them."""
    t, at = TEXT[language], results["shapes"]
    small = at["54 x 2304"]
    fastest = {shape: v["fastest_ms"][NOTEBOOK] / v["fastest_ms"][OURS] for shape, v in at.items()}
    over = [small[key][OURS] / limit(small, key) for key in ("ms", "fastest_ms")]
    wanted = [  # (name, sign, goal, measured, in the fastest round)
        *((t["faster"].format(shape), "least", goal, at[shape]["ratio"], fastest[shape]) for shape, goal in GOALS.items()),
        (t["same"], "least", small["ratio"], at["54 x 4800"]["ratio"], fastest["54 x 4800"]),
        (t["within"].format("54 x 2304"), "most", 2.5, *over),
        (t["memory"], "most", 16, max(0, small["mib"][OURS]), None),
    ]  # fmt: skip
    rows = []
    for name, sign, goal, value, best in wanted:
        short = (goal - value if sign == "least" else value - goal) / goal
        verdict = t["missed"].format(100 * short) if short > 0 else t["met"]
        rows.append([name, f"{t[sign]} {number(goal)}", number(value), "" if best is None else number(best), verdict])
    return table(["", t["goal"], t["measured"], t["fastest"], ""], rows)


def machine(results, language):
    t, m = TEXT[language], results["machine"]
    return "\n".join([
        f"- {t['machine']}: {m['processor']}, {m['cores']} {t['cores']}, {m['threads']} {t['threads']}",
        f"- {t['rate']}: {m['gflops']:.0f} GFlop/s; {t['bandwidth']}: {m['bandwidth']:.0f} GB/s",
        f"- {t['load']}: {decimals(' / '.join(f'{v:.1f}' for v in m['load']), language)}",
        f"- {versions(m)}",
    ])  # fmt: skip


def comparison(results, language):
    t, parts = TEXT[language], []
    columns = ("ms", "fastest_ms", "first_ms")
    for shape, v in results["shapes"].items():
        rows = []
        for name in (name for name in v["ms"] if name not in ("product", "binning")):
            both = name in (NOTEBOOK, OURS, TORCH)
            base = v["ms"][NOTEBOOK if both else "notebook, one measure"]
            ratio = v["ratio"] if name == OURS else base / v["ms"][name]
            mib = number(max(0, v["mib"][name])) if name in v["mib"] else ""
            times = [number(v[key][name]) for key in columns]
            rows.append([t.get(name, name), t["both" if both else "one"], *times, number(ratio), mib])
        for name in ("product", "binning"):
            rows.append([t[name], "", *(number(v[key][name]) for key in columns), "", ""])
        best = v["ms"][NOTEBOOK] / limit(v, "ms")
        limits = [number(limit(v, key)) for key in columns]
        rows.append([f"**{t['limit']}**", t["both"], *limits, number(best), ""])
        span = " / ".join(number(r) for r in v["ratio_range"])
        header = [t["method"], t["measures"], t["ms"], t["fastest"], t["first"], t["times"], t["mib"]]
        parts.append(f"### {shape}\n\n{table(header, rows)}\n\n{t['rounds'].format(v['rounds'], span)}")
    names = (NOTEBOOK, TORCH, OURS)
    rows = [
        [shape, *(number(v["ms"][name]) for name in names), number(v["ms"][NOTEBOOK] / v["ms"][OURS])]
        for shape, v in results["layers"].items()
    ]
    parts.append(table([t["layers"], *(f"{t.get(name, name)}, ms" for name in names), t["times"]], rows))
    return "\n\n".join(parts)


def growth(results, language):
    t, parts = TEXT[language], []
    for key, name in (("tokens", t["tokens"]), ("features", t["features"]), ("layers", t["n_layers"])):
        rows = []
        for point in results["growth"][key]:
            *batch, _, n_features = point["shape"]
            pairs = n_features * (n_features - 1) / 2 * (batch[0] if batch else 1)
            row = [" x ".join(map(str, point["shape"]))]
            for kernel in ("numba", "torch"):
                row += [number(point[kernel]), number(1e6 * point[kernel] / pairs)]
            rows.append(row)
        header = [t["shape"], f"numba, {t['ms']}", t["pair"], f"torch, {t['ms']}", t["pair"]]
        parts.append(f"### {t['growth'].format(name).capitalize()}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def gpu(found, language):
    """What tools/prove_gpu.py found, as it wrote it into gpu.json; None: it has not run."""
    t = TEXT[language]["gpu"]
    if found is None or found.get("error"):  # it broke off: no proof
        return t["none"]
    rows, kernels = [], ("triton", "torch")
    for row in found["shapes"]:
        cells = [row["model"], " x ".join(map(str, row["shape"])), *(number(row["ms"][name]) for name in kernels)]
        cells += [number(row["limit_ms"]), t[row["bound"]], f"{100 * row['limit_ms'] / row['ms']['triton']:.0f}%"]
        rows.append(cells + [number(row["mib"][name]) for name in kernels])
    lines = [t["machine"].format(**found["machine"] | {"versions": versions(found["machine"])})]
    lines += [t["tests"].format(**found["tests"])]
    lines += [t["oracle"].format(kernel=kernel, **values) for kernel, values in found["oracle"].items()]
    lines.append(t["proof"].format(proof=found["proof"] or t["proved"]))
    return "\n".join([decimals(table(t["header"], rows), language), "", *(f"- {line}" for line in lines)])


def between(text, name, new):
    """The page `text` with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    (before, _), (_, after) = text.split(begin), text.split(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


def read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def page(text, results, language, on_gpu=None):
    """The page with its tables made anew; `on_gpu`: what tools/prove_gpu.py wrote, or None."""
    text = between(text, "machine", machine(results, language))
    for make in (goals, comparison, growth):
        text = between(text, make.__name__, decimals(make(results, language), language))
    return between(text, "gpu", gpu(on_gpu, language))


def write():
    for language, path in PAGES.items():
        path.write_text(page(path.read_text(encoding="utf-8"), read(RESULTS), language, read(GPU)), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2], *map(int, sys.argv[3:]))
    elif sys.argv[1:] not in (["measure"], ["write"]):
        sys.exit(__doc__)
    else:
        measure() if sys.argv[1] == "measure" else write()
