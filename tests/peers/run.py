"""Runs the convolution tests of other libraries without and with ``jaxconv.install()``.

    python tests/peers/run.py --json benchmarks/results/peer_tests.json
    python tests/peers/run.py --only jax --checkout jax=PATH

Each library's source distribution, of the version that is installed, is downloaded by pip and
unpacked, and its tests run in child processes. Distributions of jax and Equinox have no tests:
theirs run from a checkout, or are left out. Exits with 1 if a test fails with jaxconv that passes
without it, unless it is known to depend on how, and not on what, is computed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.common import results  # noqa: E402
from benchmarks.common.machine import machine, versions  # noqa: E402
from benchmarks.cpu import tables  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library: its distribution, and its test files with the names of the tests to run."""

    distribution: str
    files: tuple[str, ...]
    names: str = ""
    published: bool = True  # whether the tests are in the source distribution
    explained: str = "(none)"  # in the names of tests that cannot pass with jaxconv


PEERS = {
    "jax": Peer(
        "jax",
        (
            "tests/lax_test.py",
            "tests/lax_autodiff_test.py",
            "tests/export_test.py",
            "tests/shape_poly_test.py",
        ),
        names="conv and not convert",
        published=False,
        # It compares an exported program, which is plain XLA, with the engine to 1e-6 of each
        # element, although terms cancel: less than the rounding of sums in another order.
        explained="test_harness_conv_general_dilated_",
    ),
    "Flax": Peer(
        "flax",
        (
            "tests/linen/linen_linear_test.py",
            "tests/nnx/nn/conv_test.py",
            "tests/nnx/nn/linear_test.py",
        ),
        names="conv",
    ),
    "Equinox": Peer("equinox", ("tests/test_nn.py",), names="conv", published=False),
    "Haiku": Peer(
        "dm-haiku",
        ("haiku/_src/conv_test.py", "haiku/_src/depthwise_conv_test.py"),
        # They look for the precision of lax's operation, which is no longer there.
        explained="PrecisionTest",
    ),
    "Keras": Peer(
        "keras",
        tuple(
            f"keras/src/layers/{name}_test.py"
            for name in (
                "convolutional/conv",
                "convolutional/conv_transpose",
                "convolutional/depthwise_conv",
                "convolutional/separable_conv",
                "rnn/conv_lstm1d",
                "rnn/conv_lstm2d",
                "rnn/conv_lstm3d",
            )
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument(
        "--checkout", nargs="*", default=[], metavar="NAME=PATH", help="tests that pip cannot get"
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the results to this file")
    args = parser.parse_args()
    checkouts = {
        name: pathlib.Path(path)
        for name, _, path in (each.partition("=") for each in args.checkout)
    }
    rows = []
    for name in args.only:
        if PEERS[name].published or name in checkouts:
            rows.append(compare(name, PEERS[name], checkouts.get(name)))
            print(rows[-1], flush=True)
        else:
            print(f"{name}: its source distribution has no tests; give --checkout {name}=PATH")
    report = results.report(rows, machine(), versions("jax"))
    if args.json:
        results.write(args.json, report)
    print(tables.peer_tests(rows), report.source, sep="\n\n")
    raise SystemExit(any(len(row["only_with"]) > row["explained"] for row in rows))


def compare(name: str, peer: Peer, checkout: pathlib.Path | None) -> results.Row:
    """How many tests pass without and with jaxconv, and the names of those that change."""
    with tempfile.TemporaryDirectory() as folder:
        root = checkout or unpacked(peer, pathlib.Path(folder))
        without, with_jaxconv = (outcomes(peer, root, active) for active in (False, True))
    if not without or without.keys() != with_jaxconv.keys():
        raise SystemExit(f"{name}: the two runs have not the same tests, or none")
    changed = [test for test in without if without[test] != with_jaxconv[test]]
    only_with = [test for test in changed if with_jaxconv[test] == "failed"]
    return {
        "library": name,
        "version": importlib.metadata.version(peer.distribution),
        "tests": len(without),
        "skipped": sum(outcome == "skipped" for outcome in without.values()),
        "passed_without": sum(outcome == "passed" for outcome in without.values()),
        "passed_with": sum(outcome == "passed" for outcome in with_jaxconv.values()),
        "only_without": [test for test in changed if without[test] == "failed"],
        "only_with": only_with,
        "explained": sum(peer.explained in test for test in only_with),
    }


def unpacked(peer: Peer, folder: pathlib.Path) -> pathlib.Path:
    """The unpacked source distribution of the version that is installed."""
    version = importlib.metadata.version(peer.distribution)
    options = ("--no-binary", ":all:", "--no-deps", "--dest", str(folder))
    command = [sys.executable, "-m", "pip", "download", "-q", *options]
    subprocess.run([*command, f"{peer.distribution}=={version}"], check=True, timeout=300)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as contents:
        contents.extractall(folder, filter="data")
    archive.unlink()
    return next(folder.iterdir())


def outcomes(peer: Peer, root: pathlib.Path, active: bool) -> dict[str, str]:
    """``passed``, ``failed`` or ``skipped`` by the name of the test."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(pathlib.Path(__file__).parent))),
    }
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
        options += ["-p", "with_jaxconv"] if active else []
        options += ["-k", peer.names] if peer.names else []
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *peer.files]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(f"pytest ended without a report:\n{done.stdout[-2000:]}{done.stderr}")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found = {}
    for case in cases:
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        found[f"{case.get('classname')}.{case.get('name')}"] = (
            "skipped" if "skipped" in kinds else outcome
        )
    return found


if __name__ == "__main__":
    main()
