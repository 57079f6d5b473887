"""Measure every method interleaved, and write the tables of docs/performance.md and docs/performance.vi.md.

python -m tools.benchmarks.report measure    (some ten minutes; writes results.json)
python -m tools.benchmarks.report write      (the pages out of results.json)
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results.json"
PAGES = {"en": ROOT / "docs" / "performance.md", "vi": ROOT / "docs" / "performance.vi.md"}

ROUNDS = {(54, 2304): 12, (54, 4800): 5, (5000, 2304): 4}
SLOW = {("scipy pdist", (5000, 2304))}  # once is enough
LAYERS = {(12, 54, 2304): 3, (48, 54, 4800): 1}
TOKENS = (54, 100, 200, 300, 500, 1000, 2000, 5000)
FEATURES = (576, 1152, 2304, 3072, 4800)
N_LAYERS = (1, 12, 48)
GOALS = {"54 x 2304": 30, "5000 x 2304": 2.5}
NOTEBOOK, OURS, TORCH = "notebook, both measures", "block_histograms, numba", "block_histograms, torch"

PEAK = """
import sys
sys.path.insert(0, {here!r})
from tools.benchmarks.methods import METHODS, data, sizes_of

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

function = METHODS[{name!r}][0]
x = data(*{shape!r})
function(data(54, 300), sizes_of(300))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
function(x, sizes_of(x.shape[1]))
print(status("VmHWM") - before)
"""


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


def measure_shape(shape, rounds):
    """Every method and the limit, turn by turn, round by round."""
    import limits
    import torch

    from tools.benchmarks.methods import METHODS, data, sizes_of

    n, n_features = shape
    n_threads = torch.get_num_threads()
    x, sizes = data(n, n_features), sizes_of(n_features)
    products = limits.product_candidates(n, n_features, n_threads)
    binning = limits.binning(n_features * (n_features - 1) // 2, n_threads)
    calls = {name: lambda f=function: f(x, sizes) for name, (function, _) in METHODS.items()}
    calls |= {f"product {at}": product for at, product in enumerate(products)} | {"binning": binning}
    for name in ("binning", OURS, TORCH):
        calls[name]()  # compiled, loaded
    first, times = ({name: [] for name in calls} for _ in range(2))
    for round_ in range(rounds):
        for name, call in calls.items():
            if (name, shape) in SLOW:
                if round_ == 0:
                    times[name].append(once(call))
                    first[name] += times[name]
                continue
            for values, value in zip((first[name], times[name]), turn(call), strict=True):
                values.append(value)
    memory = {}
    for name in METHODS:
        if shape != (54, 2304) and name not in (NOTEBOOK, OURS, TORCH):
            continue
        code = PEAK.format(here=str(HERE), name=name, shape=shape)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        memory[name] = float(run.stdout)
    ratios = [a / b for a, b in zip(times[NOTEBOOK], times[OURS], strict=True)]
    best = min((name for name in times if name.startswith("product")), key=lambda name: median(times[name]))
    return {
        "ms": {name: 1e3 * median(values) for name, values in times.items()},
        "fastest_ms": {name: 1e3 * min(values) for name, values in times.items()},
        "first_ms": {name: 1e3 * median(values) for name, values in first.items()},
        "mib": memory,
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "product": best,
        "rounds": rounds,
    }


def measure_layers(shape, rounds):
    import torch

    from helpers import block_histograms
    from tools.benchmarks.methods import _ours, data, notebook_both, sizes_of

    x, sizes = data(*shape), sizes_of(shape[-1])
    _ours("numba", ("cosine",))(x[0], sizes)  # compiled, loaded
    found = {NOTEBOOK: [], OURS: [], TORCH: []}
    for _ in range(rounds):
        time.sleep(0.15)
        found[NOTEBOOK].append(once(lambda: [notebook_both(layer, sizes) for layer in x]))
        for name, kernel in ((OURS, "numba"), (TORCH, "torch")):
            os.environ["QKV_KERNEL"] = kernel
            found[name].append(once(block_histograms, torch.from_numpy(x), sizes))
    return {"ms": {name: 1e3 * median(v) for name, v in found.items()}, "rounds": rounds}


def measure_growth(shapes):
    """ms of both of our paths, the shapes interleaved."""
    import torch

    from helpers import block_histograms
    from tools.benchmarks.methods import data, sizes_of

    inputs = [torch.from_numpy(data(*shape)) for shape in shapes]
    times = {kernel: [[] for _ in shapes] for kernel in ("numba", "torch")}
    for _ in range(4):
        for kernel, found in times.items():
            os.environ["QKV_KERNEL"] = kernel
            for x, values in zip(inputs, found, strict=True):
                values.append(turn(block_histograms, x, sizes_of(x.shape[-1]), least=0.05)[1])
    return [
        {"shape": list(shape), "numba": 1e3 * median(a), "torch": 1e3 * median(b)}
        for shape, a, b in zip(shapes, times["numba"], times["torch"], strict=True)
    ]


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure():
    sys.path.insert(0, str(HERE))
    import limits
    import torch

    from helpers.kernels import compile_kernels

    compile_kernels()
    n_threads = torch.get_num_threads()
    load = os.getloadavg()[0]
    results = {"shapes": {}, "layers": {}}
    for shape, rounds in ROUNDS.items():
        results["shapes"][f"{shape[0]} x {shape[1]}"] = measure_shape(shape, rounds)
        print(shape, json.dumps(results["shapes"][f"{shape[0]} x {shape[1]}"], indent=1), flush=True)
    for shape, rounds in LAYERS.items():
        results["layers"][" x ".join(map(str, shape))] = measure_layers(shape, rounds)
    results["growth"] = {
        "tokens": measure_growth([(n, 2304) for n in TOKENS]),
        "features": measure_growth([(54, n_features) for n_features in FEATURES]),
        "layers": measure_growth([(n_layers, 54, 2304) for n_layers in N_LAYERS]),
    }
    names = ("torch", "numpy", "numba", "scipy", "scikit-learn", "torchmetrics")
    results["machine"] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": n_threads,
        "gflops": limits.product_rate(n_threads),
        "bandwidth": limits.bandwidth(n_threads),
        "load": [load, os.getloadavg()[0]],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


# ---- the pages ------------------------------------------------------------------------------------

TEXT = {
    "en": {
        "method": "method", "measures": "measures", "ms": "ms", "times": "times faster", "mib": "MiB above the input",
        "product": "triangular product alone, best of the candidates", "binning": "one pass of binning, both measures",
        "limit": "limit L, the sum", "fastest": "fastest round", "first": "first call after a pause",
        "layers": "layers x tokens x features", "shape": "shape", "pair": "ns per pair", "both": "both", "one": "one",
        "machine": "Machine", "cores": "cores", "threads": "threads", "rate": "float32 product",
        "bandwidth": "copy bandwidth", "load": "load before and after (other work ran at the same time)",
        "cuda": "CUDA", "none": "not measured (no GPU at hand; the Triton kernel has never run on one)",
        "goal": "goal", "measured": "measured", "met": "reached", "missed": "missed by {:.0f}%",
        "faster": "times faster than the notebook-style method, {}", "within": "times the limit L, {}",
        "same": "ratio at 54 x 4800 no smaller than at 54 x 2304",
        "memory": "MiB above the input, 54 x 2304", "rounds": "median of {} rounds; smallest and largest ratio {}",
        "tokens": "tokens", "features": "features", "growth": "growth with {}", "n_layers": "layers",
        "least": "at least", "most": "at most",
    },
    "vi": {
        "method": "cách tính", "measures": "số phép đo", "ms": "ms", "times": "nhanh gấp (lần)",
        "mib": "MiB ngoài dữ liệu vào",
        "product": "riêng phép nhân nửa tam giác, cách nhanh nhất trong các cách thử",
        "binning": "một lượt đếm, cả hai phép đo", "limit": "giới hạn L, tổng của hai dòng trên",
        "fastest": "vòng nhanh nhất", "first": "lần gọi đầu sau quãng nghỉ", "layers": "tầng x token x chiều",
        "shape": "kích thước", "pair": "ns mỗi cặp", "both": "hai", "one": "một", "machine": "Máy đo",
        "cores": "nhân", "threads": "luồng (thread)", "rate": "tốc độ nhân ma trận float32",
        "bandwidth": "băng thông sao chép bộ nhớ", "load": "tải trước và sau khi đo (máy còn chạy việc khác cùng lúc)",
        "cuda": "CUDA", "none": "chưa đo (không có GPU; kernel Triton chưa từng chạy trên GPU)",
        "goal": "mục tiêu", "measured": "đo được", "met": "đạt", "missed": "thiếu {:.0f}%",
        "faster": "số lần nhanh hơn cách trong sổ tay, {}", "within": "số lần giới hạn L, {}",
        "same": "tỉ số ở 54 x 4800 không nhỏ hơn ở 54 x 2304",
        "memory": "MiB ngoài dữ liệu vào, 54 x 2304", "rounds": "trung vị của {} vòng; tỉ số nhỏ nhất và lớn nhất {}",
        "tokens": "số token", "features": "số chiều", "growth": "chi phí tăng theo {}", "n_layers": "số tầng",
        "least": "ít nhất", "most": "nhiều nhất",
        "notebook, one measure": "cách trong sổ tay, một phép đo",
        "notebook, both measures": "cách trong sổ tay, cả hai phép đo",
    },
}  # fmt: skip


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
    return shape[key][shape["product"]] + shape[key]["binning"]


def goals(results, language):
    """The goals, by the medians; the fastest rounds beside them."""
    t, at = TEXT[language], results["shapes"]
    small = at["54 x 2304"]
    fastest = {shape: v["fastest_ms"][NOTEBOOK] / v["fastest_ms"][OURS] for shape, v in at.items()}
    rows = []

    def add(name, least, goal, value, best=None):
        short = (goal - value) / goal if least else (value - goal) / goal
        sign = t["least"] if least else t["most"]
        verdict = t["missed"].format(100 * short) if short > 0 else t["met"]
        rows.append([name, f"{sign} {number(goal)}", number(value), "" if best is None else number(best), verdict])

    for shape, goal in GOALS.items():
        add(t["faster"].format(shape), True, goal, at[shape]["ratio"], fastest[shape])
    add(t["same"], True, small["ratio"], at["54 x 4800"]["ratio"], fastest["54 x 4800"])
    over = [small[key][OURS] / limit(small, key) for key in ("ms", "fastest_ms")]
    add(t["within"].format("54 x 2304"), False, 2.5, *over)
    add(t["memory"], False, 16, max(0, small["mib"][OURS]))
    return decimals(table(["", t["goal"], t["measured"], t["fastest"], ""], rows), language)


def machine(results, language):
    t, m = TEXT[language], results["machine"]
    load = decimals(" / ".join(f"{v:.1f}" for v in m["load"]), language)
    return "\n".join([
        f"- {t['machine']}: {m['processor']}, {m['cores']} {t['cores']}, {m['threads']} {t['threads']}",
        f"- {t['rate']}: {m['gflops']:.0f} GFlop/s; {t['bandwidth']}: {m['bandwidth']:.0f} GB/s",
        f"- {t['load']}: {load}",
        f"- {versions(m)}",
        f"- {t['cuda']}: {m['cuda'] or t['none']}",
    ])  # fmt: skip


def comparison(results, language):
    t, parts = TEXT[language], []
    for shape, v in results["shapes"].items():
        rows = []
        for name, ms in v["ms"].items():
            if name == "binning" or name.startswith("product"):
                continue
            both = name in (NOTEBOOK, OURS, TORCH)
            base = v["ms"][NOTEBOOK if both else "notebook, one measure"]
            ratio = v["ratio"] if name == OURS else base / ms
            mib = number(max(0, v["mib"][name])) if name in v["mib"] else ""
            of_calls = [number(v[key][name]) for key in ("ms", "fastest_ms", "first_ms")]
            rows.append([t.get(name, name), t["both" if both else "one"], *of_calls, number(ratio), mib])
        for label, name in ((t["product"], v["product"]), (t["binning"], "binning")):
            rows.append([label, "", *(number(v[key][name]) for key in ("ms", "fastest_ms", "first_ms")), "", ""])
        limits = [number(limit(v, key)) for key in ("ms", "fastest_ms", "first_ms")]
        rows.append([f"**{t['limit']}**", t["both"], *limits, number(v["ms"][NOTEBOOK] / limit(v, "ms")), ""])
        span = " / ".join(number(r) for r in v["ratio_range"])
        header = [t["method"], t["measures"], t["ms"], t["fastest"], t["first"], t["times"], t["mib"]]
        parts.append(f"### {shape}\n\n{table(header, rows)}\n\n{t['rounds'].format(v['rounds'], span)}")
    rows = [
        [shape, *(number(v["ms"][name]) for name in (NOTEBOOK, TORCH, OURS)), number(v["ms"][NOTEBOOK] / v["ms"][OURS])]
        for shape, v in results["layers"].items()
    ]
    parts.append(
        table([t["layers"], *(f"{t.get(name, name)}, ms" for name in (NOTEBOOK, TORCH, OURS)), t["times"]], rows)
    )
    return decimals("\n\n".join(parts), language)


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
    return decimals("\n\n".join(parts), language)


SECTIONS = {"goals": goals, "machine": machine, "comparison": comparison, "growth": growth}


def between(text, name, new):
    """The page `text` with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    return before + begin + "\n" + new + "\n" + end + rest.split(end)[1]


def page(text, results, language):
    """The page with its tables made anew."""
    for name, make in SECTIONS.items():
        text = between(text, name, make(results, language))
    return text


def write(page, pages, results):
    """Every page made anew by `page` out of the stored results; pages: {language: path}."""
    results = json.loads(results.read_text(encoding="utf-8"))
    for language, path in pages.items():
        path.write_text(page(path.read_text(encoding="utf-8"), results, language), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] not in (["measure"], ["write"]):
        sys.exit(__doc__)
    measure() if sys.argv[1] == "measure" else write(page, PAGES, RESULTS)
