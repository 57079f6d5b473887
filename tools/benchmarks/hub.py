"""A class on a real JupyterHub: what a student takes, for docs/classroom*.md.

python -m tools.benchmarks.hub measure    run notebook 04 for 1, 4 and 8 students, write hub.json
python -m tools.benchmarks.hub write      put hub.json into the tables of docs/classroom*.md
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import linear_regression

import psutil

from helpers.settings import cache_dir
from helpers.wheels import SMOLLM2, wheel_model_folder
from tests.support.hub import Student, read_only_copy, running_hub
from tools.benchmarks.report import between, command, pages, read, rewrite, section, store, this_machine

RESULTS = Path(__file__).with_name("hub.json")
PAGES = pages("classroom")
NOTEBOOK = "vi/04_cosine_smile.ipynb"
CLASS = 40


def measure():
    wheel_model_folder(SMOLLM2)
    rows = []
    with tempfile.TemporaryDirectory() as folder, read_only_copy(cache_dir(), Path(folder, "cache")) as cache:
        for n in (1, 4, 8):
            rows.append(measure_class(n, cache))
            print(rows[-1], flush=True)
    machine = this_machine("jupyterhub", "jupyterlab", "torch", "transformers")
    store(RESULTS, {"machine": machine | {"memory": psutil.virtual_memory().total}, "rows": rows})


def measure_class(n, cache):
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, running_hub(Path(folder), cache) as hub:
        students = [Student(hub, f"student{i}") for i in range(n)]
        start = time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            for errors, *_ in pool.map(lambda student: student.do(NOTEBOOK), students):
                if errors:
                    raise RuntimeError(f"a cell failed: {errors[0]}")
        wall = time.perf_counter() - start
        time.sleep(1.5)
    cpu = sum(seconds for _, seconds in hub.seconds.values()) / n
    uss = max(peak["uss"] for peak in hub.peaks.values())
    return {"users": n, "seconds": wall, "cpu": cpu, "pss": hub.most["pss"], "uss": uss, "load": load}


def page(text, language):
    """The page with what was measured made anew."""
    results = read(RESULTS)
    rows = results["rows"]
    slope, start = linear_regression([row["users"] for row in rows], [row["pss"] / 2**20 for row in rows])
    cpu = CLASS * rows[-1]["cpu"]
    line = {"size": CLASS, "slope": slope, "total": (start + slope * CLASS) / 1024, "cpu": cpu, "minutes": cpu / 8 / 60}
    return between(text, "memory", section("memory", language, line=line, **results))


if __name__ == "__main__":
    command(__doc__, measure=measure, write=lambda: rewrite(PAGES, page))
