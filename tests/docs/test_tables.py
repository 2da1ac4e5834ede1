"""The documentation shows what was measured: every table and picture is that of its JSON file."""

import importlib.util
import math
import pathlib
import re

import pytest

from benchmarks.common import results

ROOT = pathlib.Path(__file__).parents[2]


def script(name: str):
    """A script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = script("tables")
speedups = script("speedups")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in tables.pages()}
WITH_TABLES = {name: page for name, page in PAGES.items() if tables.names(page)}
each_page = pytest.mark.parametrize("name", WITH_TABLES)


@each_page
def test_a_page_shows_its_measurements(name):
    assert tables.filled(PAGES[name]) == PAGES[name], "run: python docs/tables.py"


@each_page
def test_a_changed_digit_is_noticed(name):
    before, marker, after = PAGES[name].partition("<!-- table:")
    changed = re.sub(
        r"(?<=\n)(.*?)(\d)", lambda m: m[1] + str((int(m[2]) + 1) % 10), after, count=1
    )
    page = before + marker + changed
    assert page != PAGES[name]
    assert tables.filled(page) == PAGES[name]


def test_every_measurement_is_shown_with_its_source():
    shown = {name for page in PAGES.values() for name in tables.names(page)}
    measurements = {path.stem for path in results.FOLDER.glob("*.json")}
    assert measurements == {measurement for measurement, _ in tables.TABLES.values()}
    assert shown == tables.TABLES.keys() | {f"{name}{tables.SOURCE}" for name in measurements}


def test_an_unknown_table_is_an_error():
    with pytest.raises(ValueError, match="there is no table 'cpu_sumary'"):
        tables.filled("<!-- table: cpu_sumary -->\n<!-- end -->")


@pytest.mark.parametrize("name", [name for name in WITH_TABLES if name.startswith("docs/perf")])
def test_times_and_speedups_stand_in_generated_text_alone(name):
    prose = re.sub(r"<!-- table.*?<!-- end -->", "", PAGES[name], flags=re.DOTALL)
    assert not re.findall(r"\d ?(?:ms|µs|ns)\b|\d times (?:as|faster|slower)|\d×\s+faster", prose)


def test_the_picture_draws_the_measurement():
    rows = results.read(speedups.MEASUREMENT).rows
    bars = speedups.bars(rows)
    assert len(bars) == len(speedups.WORKLOADS)
    for workload, bar in zip(speedups.WORKLOADS, bars, strict=True):
        for peer, speedup in bar.speedup.items():
            three = [row["speedup"][peer] for row in rows if row["workload"] == workload]
            assert len(three) == 3
            assert math.isclose(speedup, math.prod(three) ** (1 / 3))
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    image = pytest.importorskip("PIL.Image")
    with image.open(speedups.PICTURE) as picture:
        description = picture.info["Description"]
    assert description == speedups.description(bars), "run: python docs/speedups.py"
    (ax,) = speedups.draw(bars, "caption").axes
    drawn = [1 + patch.get_width() for patch in ax.patches]
    expected = [bar.speedup[peer] for peer in speedups.PEERS for bar in bars]
    assert drawn == pytest.approx(expected)
