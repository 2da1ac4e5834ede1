"""Calls every public function and module with malformed arguments, in child processes.

    PYTHONPATH=tests python -m support.argument_fuzz --calls 50000

Every call must return what ``implementation="lax"`` returns, or raise a ``ValueError`` or
``TypeError`` from jaxconv's own code that names the function. The child processes are there because
a call may also abort the process, or never return. The last line says how many calls were made.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import traceback
import warnings
from typing import Any

import jax
import numpy as np

import jaxconv
from support.call_targets import TARGETS, Target
from support.malformed import ENDLESS, VALUES

PACKAGE = pathlib.Path(jaxconv.__file__).parent
MAX_COMPUTED = 10**6  # results with more elements are traced, not computed
# jax's own words for arrays that were donated or deleted, and for more memory than there is.
OF_JAX = ("Array has been deleted", "Out of memory", "RESOURCE_EXHAUSTED")
MAX_ADDRESS_SPACE = 24 << 30
BATCH = 500  # calls per child process
COMMAND = ("-m", "support.argument_fuzz", "--child")


class Call:
    """The call of number ``index``: a target, and the values in place of some of its arguments."""

    def __init__(self, index: int):
        rng = random.Random(index)
        self.name = rng.choice(tuple(TARGETS))
        self.target: Target = TARGETS[self.name]
        arguments = tuple(self.target.arguments)
        count = min(rng.choice((1, 1, 1, 2, 3)), len(arguments))
        # Other libraries read an endless iterable to its end.
        values = [each for each in VALUES if self.target.foreign is None or each not in ENDLESS]
        self.values = {each: rng.choice(values) for each in rng.sample(arguments, count)}
        self.traced = rng.random() < 0.1

    def __str__(self) -> str:
        values = ", ".join(f"{name}=<{value}>" for name, value in self.values.items())
        return f"{self.name}({values}{', traced' if self.traced else ''})"

    def run(self) -> list[Any]:
        """The arrays that the call returns; values are made anew, because some are used up."""
        malformed = self.made()
        traced = {name: value for name, value in malformed.items() if _traceable(value)}
        if self.traced and traced:
            return list(jax.eval_shape(lambda traced: self._arrays(malformed | traced), traced))
        shapes = jax.eval_shape(lambda: self._arrays(malformed))
        if sum(shape.size for shape in shapes) > MAX_COMPUTED:
            return []
        return [np.asarray(each) for each in self._arrays(self.made())]

    def made(self) -> dict[str, Any]:
        return {name: VALUES[value]() for name, value in self.values.items()}

    def _arrays(self, malformed: dict[str, Any]) -> list[Any]:
        result = self.target.function(**(self.target.arguments | malformed))
        leaves = jax.tree.leaves(result)
        return [leaf for leaf in leaves if isinstance(leaf, jax.Array) and _numeric(leaf)]

    def fault(self) -> str | None:
        """What is wrong with the outcome; None if nothing is."""
        try:
            results = self.run()
        except Exception as error:
            return self._fault_of_error(error)
        if self.target.compared and not self.traced:
            with jaxconv.use_implementation("lax"):
                expected = self.run()
            for result, wanted in zip(results, expected, strict=True):
                scale = np.max(np.abs(wanted), initial=1)
                tolerance = 100 * float(jax.numpy.finfo(wanted.dtype).eps) * scale
                if not np.allclose(result, wanted, rtol=0, atol=tolerance, equal_nan=True):
                    return "another result than that of lax"
        return None

    def _fault_of_error(self, error: Exception) -> str | None:
        said = f"{type(error).__name__}: {_text(error)[:300]}"
        worded = isinstance(error, ValueError | TypeError)
        if any(words in said for words in OF_JAX):
            return None
        if self._is_foreign() and (worded or type(error) in self._foreign_errors()):
            return None
        if not worded:
            return said
        last = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if PACKAGE not in last.parents:
            return f"raised in {last.name}: {said}"
        if not any(word in said for word in self.target.words):
            return f"none of {self.target.words} in: {said}"
        return None

    def _is_foreign(self) -> bool:
        """Whether an error may be that of another library, or of a function of the user."""
        arguments = self.target.passed_on or self.values
        return self.target.foreign is not None and not {*self.values}.isdisjoint(arguments)

    def _foreign_errors(self) -> list[type[Exception]]:
        """The types of error that the other library's function raises for the same arguments."""
        foreign, found = self.target.foreign, []
        assert foreign is not None
        arguments = self.target.arguments | self.made()
        for attempt in (foreign, lambda **arguments: jax.eval_shape(lambda: foreign(**arguments))):
            try:
                attempt(**arguments)
            except Exception as theirs:
                found.append(type(theirs))
        return found


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "(an error without a text)"


def _numeric(array: Any) -> bool:
    return jax.numpy.issubdtype(array.dtype, np.number)


def _traceable(value: Any) -> bool:
    return (isinstance(value, int | float) and abs(value) < 2**31) or isinstance(value, jax.Array)


def check(start: int, count: int, seconds: int) -> None:
    """In a child process: one line before each call, and one for each fault."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE,) * 2)
    warnings.simplefilter("ignore")
    for index in range(start, start + count):
        call = Call(index)
        print(f"call {index} {call}", flush=True)
        faulthandler.dump_traceback_later(seconds, exit=True)
        fault = call.fault()
        if fault is not None:
            print("fault", fault.replace("\n", " "), flush=True)
    faulthandler.cancel_dump_traceback_later()


def run_batch(start: int, count: int, seconds: int) -> tuple[int, list[str]]:
    """How many calls a child process made, and their faults; its death is one of the last call."""
    arguments = [str(start), str(count), str(seconds)]
    command = [sys.executable, *COMMAND, *arguments]
    path = [str(PACKAGE.parent), str(pathlib.Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:  # some malformed arguments are paths
        environment["XDG_CACHE_HOME"] = folder
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    faults, last, made = [], "the start", 0
    for line in done.stdout.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "call":
            last, made = rest, made + 1
        elif kind == "fault":
            faults.append(f"{last}: {rest}")
    if done.returncode:
        faults.append(f"{last}: exit {done.returncode}: {done.stderr.strip()[-1500:]}")
    return made, faults


def run(calls: int, start: int = 0, seconds: int = 120) -> list[str]:
    """All faults of ``calls`` calls; a child process that dies is replaced after its last call."""
    faults: list[str] = []
    end = start + calls
    while start < end:
        made, found = run_batch(start, min(BATCH, end - start), seconds)
        start += max(made, 1)
        faults += found
        for fault in found:
            print(fault, flush=True)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="the number of the first call")
    parser.add_argument("--seconds", type=int, default=120, help="what counts as never returning")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        check(*arguments.child)
        return
    faults = run(arguments.calls, arguments.start, arguments.seconds)
    print(f"{arguments.calls} calls, {len(faults)} faults")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
