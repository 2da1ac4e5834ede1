"""Every test runs on the CPU, with eight devices for the meshes, under strict promotion rules."""

import collections
import contextlib
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAXCONV_TUNING"] = "off"  # what is measured on this machine is not what is tested


def _add_xla_flags(*flags: str) -> None:
    """Adds those flags that XLA_FLAGS does not set already."""
    given = os.environ.get("XLA_FLAGS", "")
    added = [flag for flag in flags if flag.partition("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


_add_xla_flags("--xla_force_host_platform_device_count=8")
# Nearly all the time goes into compiling programs that run once, so XLA optimizes them less.
if os.environ["JAX_PLATFORMS"] == "cpu":
    _add_xla_flags("--xla_backend_optimization_level=0")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# The same examples every time, and no deadline: the first call of a shape compiles.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "lenient: leave jax's own promotion rules, for code that relies on them"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest deselects what is slow
def pytest_collection_modifyitems(items):
    """Marks as slow all but every n-th case of a test with ``pytest.mark.sample(n)``."""
    cases = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("sample")
        if marker is not None:
            test = item.nodeid.partition("[")[0]
            if cases[test] % marker.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Inside the library no dtype and no rank is promoted by accident."""
    with contextlib.ExitStack() as stack:
        if request.node.get_closest_marker("lenient") is None:
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
            stack.enter_context(jax.numpy_rank_promotion("raise"))
        yield


@pytest.fixture
def x64():
    """Float64 and complex128 for one test: where an error of one unit in 1e-16 must show."""
    with jax.enable_x64(True):
        yield
