"""The benchmark of networks: all peers compute the same, and the tables read its rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from benchmarks.common import results
from benchmarks.networks import costs, peers, run, tables
from benchmarks.networks.cases import BATCHES, CASES, NETWORKS, PARTS, Case
from jaxconv.models import MobileNetV3Large, mobilenet_v3

twins = pytest.importorskip("benchmarks.networks.torch_networks")

pytestmark = [
    pytest.mark.models,
    pytest.mark.lenient,  # Flax's own layers
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the exporter to ONNX
]

BLOCKS = tuple(mobilenet_v3.LARGE[row] for row in (1, 3, 4))
TINY = Case(
    "tiny",
    (2, 32, 32, 3),
    lambda conv, norm, rngs: MobileNetV3Large(
        7, blocks=BLOCKS, dropout=0.0, conv=conv, norm=norm, rngs=rngs
    ),
    lambda: twins.MobileNetV3Large(7, blocks=BLOCKS),
)


@pytest.mark.sample(2)
@pytest.mark.parametrize("mode", sorted(peers.PEERS))
def test_rows(mode):
    """Of every installed peer except ``torch.compile``; ``measure`` compares their results."""
    names = [name for name in peers.NAMES if name != "torch_compile" and peers.available(name)]
    row = run.measure(TINY, mode, names, 1e-3)
    timed = row["milliseconds"]
    assert timed.keys() == {name for name in names if name in peers.PEERS[mode]}
    assert {"flax", "installed", "imported", "jaxconv", "torch"} <= timed.keys()
    own = tables.ours(row)
    assert row["speedup"] == {n: timed[n] / timed[own] for n in timed if n != own}
    for table in (tables.networks([row]), tables.summary([row])):
        assert table.count("\n") == 2
        assert tables.number(tables.over_fastest(row)) in table


def test_a_peer_that_differs_is_an_error(monkeypatch):
    def scaled(case):
        return lambda: peers.Program(
            lambda: 1.01 * peers.PEERS["inference"]["torch"](case)().call()
        )

    monkeypatch.setitem(peers.PEERS["inference"], "jaxconv", scaled)
    with pytest.raises(SystemExit, match="tiny inference jaxconv: differs by"):
        run.measure(TINY, "inference", ["flax", "jaxconv"], 1e-3)


def test_statistics_are_those_of_the_input():
    network = TINY.network(*peers.OURS)
    stem = network.layers[0]
    outputs = stem.conv(TINY.input())
    np.testing.assert_allclose(stem.norm.mean[...], outputs.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(stem.norm.var[...], outputs.var((0, 1, 2)), rtol=1e-4)
    assert stem.norm.momentum == 0.99


def test_copies_are_complete():
    """The twin's state is the network's, except for the number of batches."""
    network, twin = TINY.network(*peers.OURS), TINY.twin()
    TINY.copy(network, twin)
    ours = sum(float(np.sum(leaf)) for leaf in jax.tree.leaves(variables(network)))
    theirs = sum(float(v.sum()) for n, v in twin.state_dict().items() if "num_batches" not in n)
    assert ours == pytest.approx(theirs, rel=1e-4)


def variables(network):
    return nnx.state(network, (nnx.Param, nnx.BatchStat))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*PARTS, *NETWORKS[:: len(BATCHES)]], ids=lambda case: case.name)
def test_cases(case):
    """Network and twin have equally many parameters, and the network takes the case's input."""
    network = nnx.eval_shape(lambda: case.make(*peers.OURS, nnx.Rngs(0)))
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert ours == sum(parameter.numel() for parameter in case.twin().parameters())
    x = jax.ShapeDtypeStruct(case.shape, np.float32)
    nnx.eval_shape(lambda network, x: network(x), network, x)


def test_costs(monkeypatch):
    monkeypatch.setattr(costs, "CASES", (TINY,))
    found = costs.measure("tiny", "inference", "jaxconv")
    assert found.keys() == tables.COSTS.keys()
    assert 0 < found["compile_s"] < found["first_call_s"]
    row = {"network": "tiny", "mode": "inference"}
    row |= {figure: {"jaxconv": value} for figure, value in found.items()}
    assert tables.number(found["first_call_s"]) in tables.costs([row])


def test_names_of_cases_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.shape[0] for case in CASES if case.shape[1:] == (224, 224, 3)} == {1, 8}


def test_committed_rows_are_read():
    rows = results.read(results.FOLDER / "networks.json").rows
    for row in rows:
        assert tables.over_fastest(row) == min(
            value for name, value in row["speedup"].items() if name in tables.LIBRARIES
        )
    assert tables.networks(rows).count("\n") == 1 + len(rows)
