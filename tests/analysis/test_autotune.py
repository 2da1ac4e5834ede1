"""Tuning: winners are stored, dispatch uses them, and damaged files are harmless."""

import json
import os
import pathlib
import warnings

import jax
import numpy as np
import pytest

import jaxconv
from jaxconv._src.analysis import timing
from jaxconv._src.dispatch import tuning_cache
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels.xla import taps
from support import oracle
from support.cases import operands
from support.operators import as_spec
from support.oracle import Case

CASE = Case(2, 6, 6, (9, 7), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 6)
X, K, G = operands(CASE)
SPEC = as_spec(CASE)
KEY = tuning_cache.key(Operator.CONV, SPEC, np.float32)


def conv(x, k):
    return jaxconv.conv(x, k, **CASE.options())


def chosen(operator=Operator.CONV) -> str:
    return choose_implementation(operator, "cpu", SPEC, np.float32).implementation


@pytest.fixture
def table(tmp_path, monkeypatch) -> pathlib.Path:
    """A table that is named, and does not exist yet."""
    path = tmp_path / "tuning.json"
    monkeypatch.setenv(tuning_cache.VARIABLE, str(path))
    monkeypatch.setattr(tuning_cache, "_warned", set())
    monkeypatch.setattr(tuning_cache, "_named", [])
    return path


def device() -> str:
    name = tuning_cache.device_of("cpu")
    assert name is not None
    return name


def store(path, name: str, tile: str | None = None) -> None:
    tuning_cache.write(path, device(), {KEY: tuning_cache.Tuned(name, tile)})


@pytest.mark.parametrize("name", ["lax", "taps", "dots"])
def test_dispatch_uses_the_table(table, name):
    store(table, name)
    choice = choose_implementation(Operator.CONV, "cpu", SPEC, np.float32)
    assert (choice.implementation, choice.reason) == (name, "measured on this device")
    explained = jaxconv.explain(conv, X, K).convs[0]
    assert (explained.implementation, explained.reason) == (name, "measured on this device")
    lowered = jax.jit(lambda x, k: conv(x, k)).lower(X, K)
    forced = jax.jit(lambda x, k: jaxconv.conv(x, k, **CASE.options(), implementation=name))
    assert convolutions(lowered) == convolutions(forced.lower(X, K))
    oracle.assert_right(lowered.compile()(X, K), "g", CASE, x=X, k=K)


def convolutions(lowered) -> dict[str, int]:
    text = lowered.as_text()
    names = ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.multiply", "custom_call")
    return {name: text.count(name) for name in names}


def test_only_the_measured_operator_and_spec_use_it(table):
    store(table, "lax")
    assert chosen() == "lax"
    assert chosen(Operator.FILTER_GRAD) != "lax"
    other = SPEC.replace(batch=3)
    assert choose_implementation(Operator.CONV, "cpu", other, np.float32).implementation != "lax"
    assert (
        choose_implementation(Operator.CONV, "cpu", SPEC, jax.numpy.bfloat16).implementation
        != "lax"
    )
    assert choose_implementation(Operator.CONV, "cuda", SPEC, np.float32).implementation == "pallas"


def test_a_forced_implementation_takes_precedence_over_the_table(table):
    store(table, "lax")
    assert (
        choose_implementation(Operator.CONV, "cpu", SPEC, np.float32, "taps").implementation
        == "taps"
    )


def test_autotune_measures_stores_and_prints(table):
    def energy(x, k):
        return jax.numpy.sum(conv(x, k) ** 2)

    tuned = jaxconv.autotune(jax.grad(energy, (0, 1)), X, K, seconds=0.005)
    assert {conv.operator for conv in tuned.convs} == set(Operator)
    for one in tuned.convs:
        names = {candidate.implementation for candidate in one.candidates}
        assert names >= {"lax", "taps", "dots"}
        assert all(c.milliseconds or c.note for c in one.candidates)
        timed = [c.milliseconds for c in one.candidates if c.milliseconds is not None]
        assert one.winner in one.candidates
        assert one.winner.milliseconds <= min(timed) / 0.96
        assert chosen(one.operator) == one.winner.implementation
    assert tuned.path == table
    assert str(tuned).count("winner") == 3
    assert str(table) in str(tuned)


def test_a_path_is_read_from_then_on(table, monkeypatch):
    monkeypatch.delenv(tuning_cache.VARIABLE)
    path = table.parent / "mine" / "table.json"
    tuned = jaxconv.autotune(conv, X, K, path=path, seconds=0.001)
    assert tuned.path == tuning_cache.table_path() == path
    content = json.loads(path.read_text())
    content["devices"][device()]["choices"][KEY] = entry("dots")
    path.write_text(json.dumps(content))
    os.utime(path, ns=(1, 1))  # another time of change, whatever the clock's resolution
    assert chosen() == "dots"


def test_the_user_s_cache_directory_by_default(table, monkeypatch):
    monkeypatch.delenv(tuning_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(table.parent))
    assert tuning_cache.table_path() == table.parent / "jaxconv" / "tuning.json"
    assert chosen() != "dots"  # nothing was written yet, and there is no warning
    store(tuning_cache.table_path(), "dots")
    assert chosen() == "dots"


def entry(implementation: str, tile: str | None = None) -> dict:
    return {"implementation": implementation, "tile": tile}


def section(**changes) -> str:
    whole = {"versions": tuning_cache.versions(), "choices": {KEY: entry("dots")}} | changes
    return json.dumps({"format": tuning_cache.FORMAT, "devices": {device(): whole}})


BAD = {
    "not JSON": "{",
    "not text": b"\xff\xfe\x80",
    "empty": "",
    "nested": "[" * 100_000,
    "another format": json.dumps({"format": "another"}),
    "a list": "[]",
    "no devices": json.dumps({"format": tuning_cache.FORMAT}),
    "another device": json.dumps(
        {"format": tuning_cache.FORMAT, "devices": {"TPU v9": {"versions": {}, "choices": {}}}}
    ),
    "other versions": section(versions={"jax": "0.0.1"}),
    "an entry of another type": section(choices={KEY: 3}),
    "an entry without a tile": section(choices={KEY: {"implementation": "dots"}}),
    "the previous format": json.dumps(
        {
            "format": "jaxconv tuning 1",
            "devices": {
                device(): {"versions": tuning_cache.versions(), "choices": {KEY: ["dots", None]}}
            },
        }
    ),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_file_is_ignored_with_one_warning(table, content):
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match="ignores the tuning table .*tuning.json: .+"):
        first = chosen()
    assert first != "dots"
    assert chosen(Operator.INPUT_GRAD)  # a second warning would be an error


def test_a_directory_is_ignored_with_one_warning(table):
    table.mkdir()
    with pytest.warns(UserWarning, match="directory"):
        chosen()
    chosen()


def test_a_jitted_function_keeps_its_implementation(table):
    """As the docstring of ``autotune`` says."""
    store(table, "lax")
    before = jax.jit(lambda x, k: conv(x, k))
    lowered = before.lower(X, K)
    wanted = before(X, K)
    store(table, "dots")
    assert before._cache_size() == 1
    np.testing.assert_array_equal(before(X, K), wanted)
    assert before._cache_size() == 1
    after = jax.jit(lambda x, k: conv(x, k)).lower(X, K)
    assert "stablehlo.convolution" in lowered.as_text()
    assert "stablehlo.convolution" not in after.as_text()


def test_a_missing_named_file_warns_once(table):
    with pytest.warns(UserWarning, match="No such file"):
        chosen()
    chosen()


@pytest.mark.parametrize("stale", [("gone",), ("dots", "TileConfig(1)"), ("pallas",)])
def test_an_entry_that_cannot_be_used_is_ignored(table, stale):
    table.write_text(section(choices={KEY: entry(*stale)}))
    with pytest.warns(UserWarning, match="cannot be used"):
        assert chosen() in ("native", "taps")
    chosen()


def test_a_bad_file_is_replaced(table):
    table.write_text("{")
    store(table, "lax")
    assert chosen() == "lax"


def test_a_write_adds_to_the_file(table):
    store(table, "lax")
    other = tuning_cache.key(Operator.INPUT_GRAD, SPEC, np.float32)
    tuning_cache.write(table, device(), {other: tuning_cache.Tuned("taps")})
    tuning_cache.write(table, "TPU v9", {KEY: tuning_cache.Tuned("pallas", "TileConfig(8)")})
    assert tuning_cache.read(table, device()) == {KEY: ("lax", None), other: ("taps", None)}
    assert tuning_cache.read(table, "TPU v9") == {KEY: ("pallas", "TileConfig(8)")}


def test_a_write_is_atomic(table, monkeypatch):
    store(table, "lax")
    before = table.read_text()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        store(table, "taps")
    assert table.read_text() == before
    assert list(table.parent.iterdir()) == [table]


def test_a_directory_that_cannot_be_written_gives_one_line(table):
    (table.parent / "file").write_text("")
    path = table.parent / "file" / "tuning.json"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuned = jaxconv.autotune(conv, X, K, path=path, seconds=0.001)
    (warning,) = [str(one.message) for one in caught]
    assert warning.startswith(f"autotune cannot write {path}: ")
    assert "\n" not in warning
    assert tuned.path is None
    assert tuned.convs[0].winner.milliseconds > 0
    assert "not stored" in str(tuned)


def test_several_processes_read_only_a_named_table(table, monkeypatch):
    store(table, "dots")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert chosen() == "dots"
    monkeypatch.delenv(tuning_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(table.parent))
    store(tuning_cache.cache_path(), "dots")
    assert tuning_cache.table_path() is None
    assert chosen() != "dots"
    with pytest.raises(ValueError, match="with 2 processes all must read the same table"):
        jaxconv.autotune(conv, X, K)


def test_a_wrong_candidate_cannot_win(table, monkeypatch):
    monkeypatch.setattr(taps, "conv", lambda x, k, *_, **__: 0 * x)
    tuned = jaxconv.autotune(conv, X, K, seconds=0.001).convs[0]
    (wrong,) = [one for one in tuned.candidates if one.implementation == "taps"]
    assert (wrong.milliseconds, wrong.note) == (None, "its result is wrong")
    assert tuned.winner.implementation != "taps"


def test_a_candidate_that_fails_is_noted(table, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of registers\nand more")

    monkeypatch.setattr(taps, "conv", fails)
    tuned = jaxconv.autotune(conv, X, K, seconds=0.001).convs[0]
    (failed,) = [one for one in tuned.candidates if one.implementation == "taps"]
    assert failed.note == "failed: out of registers"


def test_forced_convolutions_are_not_measured(table):
    tuned = jaxconv.autotune(
        lambda x, k: jaxconv.conv(x, k, **CASE.options(), implementation="lax"), X, K
    )
    assert not tuned.convs
    assert not table.exists()


def test_lax_s_convolutions_are_measured_for_install(table):
    x, k = np.ones((2, 3, 9), np.float32), np.ones((4, 3, 3), np.float32)
    call = lambda x, k: jax.lax.conv(x, k, (1,), "VALID")  # noqa: E731
    assert len(jaxconv.autotune(call, x, k, seconds=0.001).convs) == 1


def test_only_functions_are_accepted():
    with pytest.raises(TypeError, match="callable"):
        jaxconv.autotune(3, X)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (TypeError, "path must be the path of a file or None, but got 3", {"path": 3}),
        (ValueError, "seconds must be a number of at least 0, but got -1", {"seconds": -1}),
        (ValueError, "seconds must be a number of at least 0, but got 'long'", {"seconds": "long"}),
    ],
)
def test_errors_name_the_argument(error, words, options):
    with pytest.raises(error, match=f"^autotune: {words}"):
        jaxconv.autotune(conv, X, K, **options)


def test_timed_calls_alternate_in_blocks_whose_first_runs_are_dropped(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def call_taking(name: str, seconds: float):
        def call():
            order.append(name)
            clock[0] += seconds

        return call

    calls = {"short": call_taking("short", 1.0), "long": call_taking("long", 2.0)}
    samples = timing.interleaved(calls, seconds=8.0, blocks=2)
    # 4 and 2 runs per block, after 2 that are dropped: a block of 4 s is longer than a run.
    assert samples == {"short": [1.0] * 8, "long": [2.0] * 4}
    assert order == ["short"] * 2 + ["long"] * 2 + (["short"] * 6 + ["long"] * 4) * 2
