"""Imports run one way, nothing heavy is imported, and importing does nothing else."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import jaxconv
from support.layout import BEGIN, END, LAYERS, ROOT, table

PACKAGE = pathlib.Path(jaxconv.__file__).parent
TESTS = pathlib.Path(__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
FLAX = ("nnx.py", "linen.py", "_src/flax", "models", "train")
CORE = [path for path in FILES if not path.relative_to(PACKAGE).as_posix().startswith(FLAX)]


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: pathlib.Path) -> set[str]:
    """The absolute names of all that a file imports, anywhere in it, for type checkers as well."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in names(node, package)}


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


def layer(name: str) -> int | None:
    """The position of a module's layer in ``LAYERS``; None for the package's own ``__init__``."""
    part = MODULES[name].relative_to(PACKAGE).as_posix()
    found = [
        at
        for at, parts in enumerate(LAYERS)
        if any(part == each or part.startswith(f"{each}/") for each in parts)
    ]
    assert len(found) == 1 or part in ("__init__.py", "_src/__init__.py"), f"{part} has no layer"
    return found[0] if found else None


@by_file
def test_imports_run_down_the_layout(path):
    here = layer(name_of(path))
    if here is None:
        return
    upward = {name for name in inner(path) if layer(name) is None or layer(name) > here}
    assert not upward, f"{name_of(path)} imports {sorted(upward)}"


def test_the_table_in_contributing_is_generated_from_the_layers():
    """Run ``python tests/support/layout.py`` after changing a layer or its docstring."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert text.count(BEGIN + table() + END) == 1


def test_few_files_stand_beside_the_folders():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 10


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_imports_from_another(path):
    tree = ast.parse(path.read_text())
    imports = {name for node in ast.walk(tree) for name in names(node, "")}
    modules = {other.stem for other in TESTS.rglob("test_*.py")}
    assert not {part for name in imports for part in name.split(".")} & modules


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
    lines = (PACKAGE / "_src" / "compat.py").read_text().splitlines()
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
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    aliases = [
        (alias.name, alias.asname)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    public = {name for name, local in aliases if name == local}
    assert all(local in (name, f"_{name}") for name, local in aliases)
    assert public == set(jaxconv.__all__)


def test_dir_lists_public_names_only():
    names = {name for name in dir(jaxconv) if not name.startswith("_")}
    assert names == set(jaxconv.__all__)
    assert all(getattr(jaxconv, name) is not None for name in names)
