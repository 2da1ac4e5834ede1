"""Imports run one way, nothing heavy is imported, and importing does nothing else."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import jaxconv

PACKAGE = pathlib.Path(jaxconv.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
FLAX = ("nnx.py", "linen.py", "flax_semantics.py", "models", "train")
CORE = [path for path in FILES if path.relative_to(PACKAGE).parts[0] not in FLAX]


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: pathlib.Path) -> set[str]:
    """The absolute names of all that a file imports when it runs, wherever in it."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    return {name for node in running(ast.parse(path.read_text())) for name in names(node, package)}


def running(tree: ast.AST):
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from running(node)


def names(node: ast.AST, package: str) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    levels = package.split(".")
    parts = levels[: len(levels) - node.level + 1] if node.level else []
    base = ".".join([*parts, *([node.module] if node.module else [])])
    whole = {base} if node.module else set()  # from . import x imports x alone
    return whole | {f"{base}.{alias.name}" for alias in node.names}


MODULES = {name_of(path): path for path in FILES}


def inner(path: pathlib.Path) -> set[str]:
    """The modules of the package that a file imports; a package's ``__init__`` last of all."""
    names = {name for name in imported(path) if name in MODULES}
    return {name for name in names if not any(n.startswith(f"{name}.") for n in names)}


def test_imports_have_no_cycle():
    order, visiting = [], []

    def visit(name):
        assert name not in visiting, " -> ".join([*visiting, name])
        if name in order:
            return
        visiting.append(name)
        for other in sorted(inner(MODULES[name])):
            visit(other)
        order.append(visiting.pop())

    for name in MODULES:
        visit(name)


# DESIGN's list, top first; a module imports only what stands above it.
LAYERS = [
    ("compat", "halo"),
    ("spec",),
    ("blocks",),
    ("padding",),
    ("checks", "caching"),
    ("geometry", "workloads"),
    ("kernels",),
    ("tuning",),
    ("dispatch",),
    ("implementation", "mesh_types"),
    ("primitives",),
    ("cut",),
    ("shards",),
    ("partitioning",),
    ("batching", "lowering", "checkpoint_policies"),
    ("operators",),
    ("functional", "sharding"),
    ("causal",),
    ("filters",),
    ("recognise", "program"),
    ("general", "walk"),
    ("install", "accelerate"),
    ("demand", "table"),
    ("explain", "analysis", "receptive", "autotune"),
    ("summary",),
    ("viz",),
    ("flax_semantics",),
    ("nnx", "linen"),
    ("models",),
    ("train",),
]


def layer(name: str) -> int | None:
    part = name.split(".")[1] if "." in name else None
    return next((at for at, names in enumerate(LAYERS) if part in names), None)


@by_file
def test_imports_run_down_the_layout(path):
    here = layer(name_of(path))
    if here is None:
        return
    above = {name for name in inner(path) if layer(name) is None or layer(name) > here}
    assert not above, f"{name_of(path)} imports {sorted(above)}"


@by_file
def test_nothing_inside_imports_the_package_itself(path):
    if path.parent.name == "train":  # a program, not the library: it uses the public names
        return
    assert "jaxconv" not in imported(path)


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_needs_jax_and_numpy_alone(path):
    roots = {name.split(".")[0] for name in imported(path)}
    allowed = {"jax", "jaxlib", "numpy", "jaxconv", *sys.stdlib_module_names}
    lazily = {"matplotlib", "PIL"} if path.parent.name == "viz" else set()
    assert roots <= allowed | lazily


@by_file
def test_private_names_of_jax_stand_in_compat(path):
    private = {name for name in imported(path) if name.startswith("jax._src")}
    assert not private or path.name == "compat.py"
    assert path.name == "compat.py" or "jax._src" not in path.read_text()


def test_every_private_name_has_its_reason():
    lines = (PACKAGE / "compat.py").read_text().splitlines()
    for at, line in enumerate(lines):
        if re.search(r"^from jax\._src", line):
            assert lines[at - 1].startswith("#"), line


def run(program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_importing_starts_nothing():
    """No backend, which would claim devices or their memory, and no thread."""
    program = """
import sys, threading
import jax
before = threading.active_count()
import jaxconv
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized(), threading.active_count() - before)
print([name for name in ("flax", "torch", "matplotlib", "optax", "scipy") if name in sys.modules
       and name not in jaxs])
""".replace("import jaxconv\n", "jaxs = set(sys.modules)\nimport jaxconv\n")
    assert run(program).split("\n") == ["False 0", "[]"]


def test_every_public_name_is_reexported_as_itself():
    """``X as X``: what ``py.typed`` makes public."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names), ast.unparse(node)
        else:
            assert isinstance(node, ast.Expr), ast.unparse(node)  # the docstring
