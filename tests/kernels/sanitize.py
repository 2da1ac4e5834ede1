"""Runs random specs on the CPU engine, built with sanitizers of memory or of threads.

    python tests/kernels/sanitize.py                       this machine's instruction set, 300 specs
    python tests/kernels/sanitize.py --isa "-mavx2 -mfma -mf16c" --specs 3000
    python tests/kernels/sanitize.py --isa ""              the baseline
    python tests/kernels/sanitize.py --sanitizer thread    data races, from several callers at once

Builds the engine with Clang (GCC takes many minutes) into ``build/sanitized-*``, then runs the
random specs of ``tests/support/engine.py`` in a process that loads the sanitizers first: half of
them with canaries around every buffer, half on buffers of the exact size, so that the address
sanitizer detects every access past the end. For the thread sanitizer, several threads of
``engine_check.cc`` call the engine at once, each with a team of threads of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
CALLERS = 3  # threads that call the engine at once


def main() -> None:
    parser = argparse.ArgumentParser(description="Run random specs on a sanitized CPU engine.")
    parser.add_argument(
        "--isa", default="-march=native", help="the compiler's flags for the instruction set"
    )
    parser.add_argument("--specs", type=int, default=300)
    parser.add_argument("--compiler", default="clang++")
    parser.add_argument(
        "--sanitizer", default="address,undefined", choices=("address,undefined", "thread")
    )
    parser.add_argument("--library", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.library:
        check(args.library, args.specs)
        return
    library = build(args.compiler, args.isa, args.sanitizer)
    if args.sanitizer == "thread":
        check_threads(library, args.compiler, args.specs)
    environment = os.environ | {
        "LD_PRELOAD": runtime(args.compiler),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at exit
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    command = [sys.executable, __file__, "--library", str(library), "--specs"]
    planted = subprocess.run([*command, "0"], env=environment, capture_output=True, text=True)
    if planted.returncode == 0 or "heap-buffer-overflow" not in planted.stderr:
        raise SystemExit(
            f"the sanitizer did not detect an overflow made on purpose:\n{planted.stderr}"
        )
    raise SystemExit(subprocess.run([*command, str(args.specs)], env=environment).returncode)


def build(compiler: str, isa: str, sanitizer: str) -> pathlib.Path:
    key = hashlib.sha1(f"{sanitizer} {isa}".encode()).hexdigest()[:8]
    directory = ROOT / "build" / f"sanitized-{key}"
    configure = [
        *("cmake", "-S", ROOT / "jaxconv" / "csrc", "-B", directory),
        f"-DCMAKE_CXX_COMPILER={compiler}",
        f"-DPython_EXECUTABLE={sys.executable}",
        *(f"-DJAXCONV_SANITIZE={sanitizer}", f"-DJAXCONV_SANITIZE_ISA={isa}"),
    ]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    jobs = str(len(os.sched_getaffinity(0)))
    subprocess.run(["cmake", "--build", directory, "--parallel", jobs], check=True)
    return directory / "_native.so"


def runtime(compiler: str) -> str:
    """The address sanitizer's runtime library, which must be loaded before all others."""
    name = "libclang_rt.asan-x86_64.so" if "clang" in compiler else "libasan.so"
    command = [compiler, f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def check(path: pathlib.Path, specs: int) -> None:
    """Runs ``specs`` random specs; for 0, one with a buffer that is an element too short."""
    from jaxconv._src.kernels.cpu import library

    library.find = lambda: path
    library._load.cache_clear()  # the import has loaded the library that is not instrumented
    from support import engine

    assert library.load()._name == str(path)
    if not specs:
        run_past_the_end(engine)
    for seed, canary in enumerate((engine.CANARY, 0)):
        engine.CANARY = canary
        engine.check_random(specs // 2, seed)
    print(f"{specs // 2 * 2} specs passed, every operator of each")


def check_threads(library: pathlib.Path, compiler: str, specs: int) -> None:
    """Runs ``engine_check.cc``, because Python does not run under the thread sanitizer."""
    program = library.with_name("engine_check")
    source = pathlib.Path(__file__).with_name("engine_check.cc")
    options = ("-std=c++17", "-O1", "-fsanitize=thread", "-pthread", "-ldl")
    subprocess.run([compiler, source, *options, "-o", program], check=True)
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    command = [str(program), str(library)]
    planted = subprocess.run(
        [*command, "20", "2", "race"], env=environment, capture_output=True, text=True
    )
    if planted.returncode == 0 or "data race" not in planted.stderr:
        raise SystemExit(f"the sanitizer did not detect a race made on purpose:\n{planted.stderr}")
    callers = [str(specs // CALLERS), str(CALLERS)]
    raise SystemExit(subprocess.run([*command, *callers], env=environment).returncode)


def run_past_the_end(engine) -> None:
    """A pointwise convolution of a source that lacks its last element."""
    spec = engine.ConvSpec(1, 4, 4, (1000,), (1,), (1,), ((0, 0),), (1,), 1)
    operator = engine.Operator.CONV
    x, kernel = engine.operands(operator, spec, "float32")
    engine.run_engine(operator, spec, "float32", x.ravel()[:-1].copy(), kernel, x.copy())


if __name__ == "__main__":
    main()
