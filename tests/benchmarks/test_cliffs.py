"""The sweeps that look for cliffs, and what counts as one."""

import os
import pkgutil
import runpy

import pytest

import benchmarks.cpu
from benchmarks.cpu import cliffs, tables

ROW = {
    "sweep": "extents",
    "operator": "conv",
    "values": [1, 3, 5, 7],
    "implementations": ["native", "native", "native", "fft"],
    "milliseconds": [0.1, 0.4, 0.9, 4.0],
    "products": [1_000_000, 2_000_000, 3_000_000, 4_000_000],
}


def test_the_largest_step_is_the_growth_of_the_cost_per_product():
    growth, at = tables.largest_step(ROW)
    assert (growth, at) == (pytest.approx((4.0 / 4) / (0.9 / 3)), 2)
    assert growth > tables.MAX_STEP
    assert "| extents | conv | native, fft | 100 to 1,000 | 3.33 | 5 | 7 |" in tables.cliffs([ROW])


def test_short_calls_are_not_compared():
    short = ROW | {"milliseconds": [0.001, 0.01, 0.1, 0.19]}
    assert tables.largest_step(short)[0] == 0
    assert tables.cliffs([short]).endswith("| 0.00 |  |  |")


@pytest.mark.parametrize("reduced", [True, False])
def test_every_sweep_varies_one_size(reduced):
    names = [sweep.name for sweep in cliffs.sweeps(reduced)]
    assert len(set(names)) == len(names)
    for sweep in cliffs.sweeps(reduced):
        assert len(sweep.values) == len(sweep.specs) > 5
        assert len(set(sweep.specs)) == len(sweep.specs)
        assert all(not spec.empty for spec in sweep.specs)
        assert list(sweep.values) == sorted(sweep.values)


SWITCHES = {"JAXCONV_SPIN", "JAXCONV_AFFINITY", "JAXCONV_LARGE_PAGES"}
MODULES = sorted(module.name for module in pkgutil.iter_modules(benchmarks.cpu.__path__))


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_benchmark_leaves_the_engines_switches(module, monkeypatch):
    """Programs that import it, such as these tests, keep the settings of their environment."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    runpy.run_path(f"{benchmarks.cpu.__path__[0]}/{module}.py", run_name="imported")
    assert not SWITCHES & os.environ.keys()
