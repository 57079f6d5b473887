"""What all measuring shares, and the tables of docs/performance.md and docs/performance.vi.md.

python -m tools.benchmarks.report measure    (some ten minutes; writes results.json)
python -m tools.benchmarks.report write      (the pages out of results.json, and gpu.json where tools.prove_gpu ran)
"""

import json
import os
import platform
import re
import sys
import time
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median

import jinja2
import torch
import yaml

from helpers.kernels.precision import full_precision

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS, GPU = HERE / "results.json", HERE / "gpu.json"
TEXT = yaml.safe_load((HERE / "words.yml").read_text(encoding="utf-8"))

NOTEBOOK, TORCH, OURS = "notebook, both measures", "block_histograms, torch", "block_histograms, numba"
BOTH = (NOTEBOOK, TORCH, OURS, "limit")  # these compute both measures, all other methods one


def seconds(call, repeat=1, of=median):
    """Of some calls; a GPU in use is waited for."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return of(times)


def above(function, *arguments):
    """MiB that a call holds at its peak above what was held before; alone in a process, on Linux."""

    def held(key):
        return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = held("VmRSS")
    function(*arguments)
    return max(0.0, held("VmHWM") - before)


def rates(device, size, copied):
    """{GFlop/s of a float32 product, GB/s of a copy (read plus write)} of square matrices, the best of five."""
    a, source = torch.randn(size, size, device=device), torch.ones(copied, copied, device=device)
    b, target = torch.empty_like(a), torch.empty_like(source)
    with full_precision(a.device):  # no TF32, as in the kernels
        product = seconds(lambda: torch.mm(a, a, out=b), 5, min)
    copy = seconds(lambda: target.copy_(source), 5, min)
    return {"gflops": 2 * size**3 / product / 1e9, "bandwidth": 2 * source.nbytes / copy / 1e9}


def this_machine(*packages):
    """{processor, cores, python, versions} for the line below a table; on Linux."""
    named = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    found = {"processor": named[1] if named else platform.machine(), "cores": os.cpu_count()}
    return found | {"python": platform.python_version(), "versions": {name: version(name) for name in packages}}


def number(value, form=None, *, language="en"):
    """A float in two or three digits, or in `form`, as the language writes it; from 10,000 on in groups of three."""
    if not isinstance(value, float):
        return "" if value is None else value
    short = ",.0f" if value >= 100 else ".1f" if value >= 10 else ".2g"
    text = format(value, (form or short).replace(",", "," if value >= 9999.5 else ""))
    return text.translate(str.maketrans(".,", ",.")) if language == "vi" else text


def section(name, language, **facts):
    """The text of tables/NAME.md.jinja, in the words of a language; it writes every number by `number`."""
    write = partial(number, language=language)
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "tables"), finalize=write, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"number": write, "fill": lambda text, **said: made.from_string(text).render(said)}
    return made.get_template(f"{name}.md.jinja").render(facts, t=TEXT[language]).strip()


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def between(text, name, new):
    """The page `text` with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    (before, _), (_, after) = text.split(begin), text.split(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


def compared(at):
    """What was measured at a shape, the limit L too, and how many times faster than the notebook's way each method is."""
    columns = ("ms", "fastest_ms", "first_ms")
    at = at | {key: at[key] | {"limit": at[key]["product"] + at[key]["binning"]} for key in columns}
    ms = {name: ms for name, ms in at["ms"].items() if name not in ("product", "binning")}
    times = {name: ms[NOTEBOOK if name in BOTH else "notebook, one measure"] / ms[name] for name in ms}
    return at | {"times": times | {OURS: at["ratio"]}}


def goals(shapes):
    """[(name in words.yml, shape, sign, goal, measured, in the fastest round)], by the medians."""
    faster = {shape: (at["ratio"], at["fastest_ms"][NOTEBOOK] / at["fastest_ms"][OURS]) for shape, at in shapes.items()}
    small = shapes["54 x 2304"]
    return [
        ("faster", "54 x 2304", "least", 30.0, *faster["54 x 2304"]),
        ("faster", "5000 x 2304", "least", 2.5, *faster["5000 x 2304"]),
        ("same", "54 x 4800", "least", small["ratio"], *faster["54 x 4800"]),
        ("within", "54 x 2304", "most", 2.5, *(small[key][OURS] / small[key]["limit"] for key in ("ms", "fastest_ms"))),
        ("memory", "54 x 2304", "most", 16.0, small["mib"][OURS], None),
    ]


def page(text, language):
    """The page with its tables made anew."""
    results = read(RESULTS)
    shapes = {shape: compared(at) for shape, at in results["shapes"].items()}
    facts = results | {"shapes": shapes, "goals": goals(shapes), "gpus": read(GPU).values()}
    facts |= {"both": BOTH, "layered": (NOTEBOOK, TORCH, OURS)}
    for name in ("machine", "goals", "comparison", "growth", "gpu"):
        text = between(text, name, section(name, language, **facts))
    return text


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def store(path, found):
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pages(name):
    """{language: docs/NAME.md in it}"""
    return {"en": ROOT / "docs" / f"{name}.md", "vi": ROOT / "docs" / f"{name}.vi.md"}


def stale(pages, page):
    """{path: its text as `page(text, language)` gives it} of those of `pages` {language: path} that are otherwise."""
    texts = {(language, path): path.read_text(encoding="utf-8") for language, path in pages.items()}
    return {path: new for (language, path), text in texts.items() if (new := page(text, language)) != text}


def rewrite(pages, page):
    """Write those that are `stale`."""
    for path, text in stale(pages, page).items():
        path.write_text(text, encoding="utf-8")


def command(doc, **actions):
    """Do what the command line names, or say what it may name."""
    actions.get(" ".join(sys.argv[1:]), lambda: sys.exit(doc))()


PAGES = pages("performance")

if __name__ == "__main__":
    command(
        __doc__,
        measure=lambda: import_module("tools.benchmarks.measure").measure(),  # needs what the extra "bench" has
        write=lambda: rewrite(PAGES, page),
    )
