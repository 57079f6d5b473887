"""`make bench`: every method on its own, by pytest-benchmark.  Never part of `make test`."""

import pytest

from tools.benchmarks.methods import METHODS, data, sizes_of

SHAPES = ((54, 2304), (54, 4800))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("name", METHODS)
def test_speed(benchmark, name, shape):
    function, n_measures = METHODS[name]
    benchmark.group = f"{shape[0]} x {shape[1]}, {n_measures} measure(s)"
    x, sizes = data(*shape), sizes_of(shape[1])
    benchmark.pedantic(function, args=(x, sizes), rounds=5, warmup_rounds=1)
