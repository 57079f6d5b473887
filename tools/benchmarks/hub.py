"""A class on a real JupyterHub: what a student takes, for docs/classroom*.md.

python -m tools.benchmarks.hub measure    run notebook 04 for 1, 4 and 8 students, write hub.json
python -m tools.benchmarks.hub write      put hub.json into the tables of docs/classroom*.md
"""

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import linear_regression

from tools.benchmarks.report import ROOT, TEXT, between, decimals, table, this_machine, versions

RESULTS = Path(__file__).with_name("hub.json")
PAGES = {"en": ROOT / "docs" / "classroom.md", "vi": ROOT / "docs" / "classroom.vi.md"}
NOTEBOOK = "vi/04_cosine_smile.ipynb"
USERS = (1, 4, 8)
CLASS = 40


def measure():
    import psutil

    from helpers.settings import cache_dir
    from helpers.wheels import SMOLLM2, wheel_model_folder
    from tests.support.hub import read_only_copy

    wheel_model_folder(SMOLLM2)
    rows = []
    with tempfile.TemporaryDirectory() as folder, read_only_copy(cache_dir(), Path(folder, "cache")) as cache:
        for n in USERS:
            room = Path(folder, str(n))
            room.mkdir()
            rows.append(measure_class(n, room, cache))
            print(rows[-1], flush=True)
    machine = this_machine("jupyterhub", "jupyterlab", "torch", "transformers")
    machine["memory"] = psutil.virtual_memory().total
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def measure_class(n, folder, cache):
    from tests.support.hub import Student, running_hub

    load = os.getloadavg()[0]
    with running_hub(folder, cache) as hub:
        students = [Student(hub, f"student{i}") for i in range(n)]
        start = time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            for errors, *_ in pool.map(lambda student: student.do(NOTEBOOK), students):
                if errors:
                    raise RuntimeError(f"a cell failed: {errors[0]}")
        wall = time.perf_counter() - start
        time.sleep(1.5)
    return {
        "users": n,
        "seconds": wall,
        "cpu": sum(seconds for _, seconds in hub.seconds.values()) / n,
        "pss": hub.most["pss"],
        "uss": max(peak["uss"] for peak in hub.peaks.values()),
        "load": load,
    }


def memory(results, language):
    """The table and its two sentences."""
    t, rows, m = TEXT[language]["hub"], results["rows"], results["machine"]
    cells = [
        [row["users"], f"{row['seconds']:.0f}", f"{row['cpu']:.0f}"]
        + [f"{value / 2**20:.0f}" for value in (row["pss"], row["pss"] / row["users"], row["uss"])]
        for row in rows
    ]
    slope, start = linear_regression([row["users"] for row in rows], [row["pss"] / 2**20 for row in rows])
    cpu, total = CLASS * rows[-1]["cpu"], (start + slope * CLASS) / 1024
    load = decimals("; ".join(f"{row['load']:.1f}" for row in rows), language)
    of = {"processor": m["processor"], "cores": m["cores"], "memory": m["memory"] / 2**30, "versions": versions(m)}
    line = {"first": rows[0]["users"], "last": rows[-1]["users"], "slope": slope, "size": CLASS, "total": total}
    line |= {"cpu": cpu, "minutes": cpu / 8 / 60}
    said = t["machine"].format(load=load, **of), t["slope"].format(**line)
    return "\n\n".join([table(t["header"], cells), *said])


def page(text, results, language):
    """The page with what was measured made anew."""
    return between(text, "memory", memory(results, language))


def write():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for language, path in PAGES.items():
        path.write_text(page(path.read_text(encoding="utf-8"), results, language), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] not in (["measure"], ["write"]):
        sys.exit(__doc__)
    measure() if sys.argv[1] == "measure" else write()
