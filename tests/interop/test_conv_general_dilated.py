"""``conv_general_dilated`` behaves as lax's: values, gradients, dtypes, errors, every layout."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv
from support.cases import operand
from support.operators import NAMES, equations, primitives
from support.oracle import epsilon

pytestmark = pytest.mark.usefixtures("x64")

# Two layouts of each rank, and some unusual ones.
NUMBERS = {
    "NCW": ("NCW", "OIW", "NCW"),
    "NWC": ("NWC", "WIO", "NWC"),
    "NCHW": ("NCHW", "OIHW", "NCHW"),
    "NHWC": ("NHWC", "HWIO", "NHWC"),
    "mixed": ("HNCW", "IHOW", "CWNH"),
    "reversed space": ("NWHC", "HWIO", "NHWC"),
    "NCDHW": ("NCDHW", "OIDHW", "NCDHW"),
    "NDHWC": ("NDHWC", "DHWIO", "NDHWC"),
}


def arrays(numbers, sizes: dict, dtype=np.float64):
    """Random operands with the axes that ``numbers`` names."""
    lhs, rhs, _ = numbers
    extents = sizes["lhs"] | {"N": sizes["N"], "C": sizes["C"]}
    kernel = sizes["rhs"] | {"I": sizes["I"], "O": sizes["O"]}
    return (
        operand(tuple(extents[letter] for letter in lhs), dtype, 1),
        operand(tuple(kernel[letter] for letter in rhs), dtype, 2),
    )


SPACE = "DHW"


def sizes_of(rank: int, groups: int = 1, batch_groups: int = 1) -> dict:
    letters = SPACE[-rank:]
    return {
        "N": 2 * batch_groups,
        "C": 2 * groups,
        "I": 2,
        "O": 3 * groups * batch_groups,
        "lhs": dict(zip(letters, (4, 7, 5)[-rank:], strict=True)),
        "rhs": dict(zip(letters, (2, 3, 2)[-rank:], strict=True)),
    }


def assert_same(lhs, rhs, *args, gradients=True, **options):
    """Our value and gradients are those of lax."""
    ours = functools.partial(jaxconv.conv_general_dilated, **options)
    theirs = functools.partial(lax.conv_general_dilated, **options)
    expected = theirs(lhs, rhs, *args)
    got = ours(lhs, rhs, *args)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    exact = jnp.issubdtype(expected.dtype, jnp.integer)
    tolerance = 0.0 if exact else 100 * epsilon(expected.dtype)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * 10)
    if gradients:
        g = operand(expected.shape, expected.dtype, 3)
        for mine, lax_own in zip(*_gradients((ours, theirs), lhs, rhs, args, g), strict=True):
            np.testing.assert_allclose(mine, lax_own, rtol=tolerance, atol=tolerance * 100)


def _gradients(functions, lhs, rhs, args, g):
    """The gradients of all functions in one program, compiled without optimization to save time."""

    def pulled(lhs, rhs, g):
        pulls = [jax.vjp(lambda a, b, fn=fn: fn(a, b, *args), lhs, rhs)[1] for fn in functions]
        return [pull(g) for pull in pulls]

    return jax.jit(pulled, compiler_options={"xla_backend_optimization_level": 0})(lhs, rhs, g)


def assert_supported(lhs, rhs, *args, **options):
    call = functools.partial(jaxconv.conv_general_dilated, **options)
    bound = primitives(lambda a, b: call(a, b, *args), lhs, rhs)
    assert "conv_general_dilated" not in bound
    assert NAMES & set(bound)


@pytest.mark.sample(8)
@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("groups", [1, 3])
def test_dimension_numbers(numbers, groups):
    rank = len(numbers[0]) - 2
    lhs, rhs = arrays(numbers, sizes_of(rank, groups))
    strides, pads = (2, 1, 1)[:rank], ((1, 2), (0, 1), (2, 0))[:rank]
    options = {"dimension_numbers": numbers, "feature_group_count": groups}
    assert_same(lhs, rhs, strides, pads, **options)
    assert_supported(lhs, rhs, strides, pads, **options)


GEOMETRIES = [
    {"window_strides": (2, 3), "padding": ((1, 2), (3, 0))},
    {"window_strides": (1, 2), "padding": ((1, 1), (2, 2)), "rhs_dilation": (2, 1)},
    {"window_strides": (1, 1), "padding": ((2, 3), (1, 1)), "lhs_dilation": (2, 3)},
    {
        "window_strides": (1, 1),
        "padding": ((2, 0), (0, 4)),
        "lhs_dilation": (3, 2),
        "rhs_dilation": (1, 2),
    },
    {"window_strides": (2, 1), "padding": ((-1, 2), (1, -2))},
    {"window_strides": (1, 1), "padding": ((-1, -1), (-2, 0))},
    {"window_strides": (1, 1), "padding": ((-1, 3), (3, -2)), "lhs_dilation": (2, 2)},
    {"window_strides": (1, 2), "padding": "SAME"},
    {"window_strides": (3, 2), "padding": "SAME_LOWER", "rhs_dilation": (2, 1)},
    {"window_strides": (1, 1), "padding": "VALID"},
]


@pytest.mark.sample(11)
@pytest.mark.parametrize("groups", [(1, 1), (3, 1), (1, 3)], ids=["dense", "features", "batch"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=range(len(GEOMETRIES)))
def test_geometry_and_groups(geometry, groups):
    feature_groups, batch_groups = groups
    numbers = NUMBERS["NHWC"]
    lhs, rhs = arrays(numbers, sizes_of(2, feature_groups, batch_groups))
    options = geometry | {
        "dimension_numbers": numbers,
        "feature_group_count": feature_groups,
        "batch_group_count": batch_groups,
    }
    # lax expands the gradients of a grouped batch to slow dense convolutions: two cases are enough.
    assert_same(lhs, rhs, gradients=batch_groups == 1 or geometry in GEOMETRIES[:2], **options)
    if geometry.get("lhs_dilation") is None or batch_groups == 1:
        assert_supported(lhs, rhs, **options)


def test_strides_with_lhs_dilation_are_left_to_lax():
    lhs, rhs = arrays(NUMBERS["NWC"], sizes_of(1))
    options = {"lhs_dilation": (2,), "dimension_numbers": NUMBERS["NWC"]}
    assert_same(lhs, rhs, (2,), ((1, 1),), **options)
    call = functools.partial(jaxconv.conv_general_dilated, **options)
    assert "conv_general_dilated" in primitives(lambda a, b: call(a, b, (2,), ((1, 1),)), lhs, rhs)


def test_the_default_layout():
    lhs, rhs = arrays(NUMBERS["NCHW"], sizes_of(2))
    assert_same(lhs, rhs, (1, 1), "SAME")


def test_integer_dimension_numbers():
    lhs, rhs = arrays(NUMBERS["NHWC"], sizes_of(2))
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, NUMBERS["NHWC"])
    assert_same(lhs, rhs, (1, 1), "SAME", dimension_numbers=numbers)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.complex64])
def test_dtypes(dtype):
    lhs, rhs = arrays(NUMBERS["NHWC"], sizes_of(2), dtype)
    assert_same(lhs, rhs, (1, 2), "SAME", dimension_numbers=NUMBERS["NHWC"], gradients=False)
    wide = np.complex128 if dtype == np.complex64 else np.float64
    options = {"preferred_element_type": wide, "dimension_numbers": NUMBERS["NHWC"]}
    got = jaxconv.conv_general_dilated(lhs, rhs, (1, 2), "SAME", **options)
    assert got.dtype == wide


def test_integers_are_left_to_lax():
    lhs, rhs = np.arange(20).reshape(1, 1, 20), np.arange(3).reshape(1, 1, 3)
    assert_same(lhs, rhs, (2,), "SAME", gradients=False)
    narrow = {"preferred_element_type": np.int32}
    assert_same(lhs.astype(np.int8), rhs.astype(np.int8), (1,), "SAME", gradients=False, **narrow)


@pytest.mark.parametrize("rank", [0, 4])
def test_other_ranks_are_left_to_lax(rank):
    lhs = operand((2, 3, *(3,) * rank), np.float64)
    rhs = operand((4, 3, *(2,) * rank), np.float64)
    assert_same(lhs, rhs, (1,) * rank, ((0, 1),) * rank, gradients=rank > 0)


@pytest.mark.parametrize(
    ("lhs", "rhs", "padding"),
    [
        ((0, 2, 5), (3, 2, 2), "SAME"),
        ((2, 2, 0), (3, 2, 2), "VALID"),
        ((2, 2, 0), (3, 2, 2), ((2, 2),)),
        ((2, 2, 3), (3, 2, 7), "VALID"),
        ((2, 2, 3), (0, 2, 2), "SAME"),
        ((2, 0, 3), (3, 0, 2), "SAME"),
    ],
)
def test_empty_results_are_laxs(lhs, rhs, padding):
    """A kernel wider than the input gives an empty result here; ``jaxconv.conv`` raises."""
    assert_same(operand(lhs, np.float64), operand(rhs, np.float64), (1,), padding, gradients=False)


def test_differentiable_twice_and_mapped():
    numbers = NUMBERS["NHWC"]
    lhs, rhs = arrays(numbers, sizes_of(2, 3))

    def energy(fn):
        def call(lhs, rhs):
            y = fn(lhs, rhs, (2, 1), "SAME", dimension_numbers=numbers, feature_group_count=3)
            return jnp.sum(y**3)

        twice = jax.grad(lambda a, b: jnp.sum(jax.grad(call)(a, b) ** 2), argnums=1)
        return jax.jit(jax.vmap(twice, in_axes=(0, None)))

    many = np.stack([lhs, -lhs])
    expected = energy(lax.conv_general_dilated)(many, rhs)
    np.testing.assert_allclose(energy(jaxconv.conv_general_dilated)(many, rhs), expected, rtol=1e-9)
    bound = set(primitives(energy(jaxconv.conv_general_dilated), many, rhs))
    assert "conv_general_dilated" not in bound
    assert bound >= NAMES


def test_the_argument_order_is_laxs():
    import inspect

    ours, theirs = (
        list(inspect.signature(fn).parameters)
        for fn in (jaxconv.conv_general_dilated, lax.conv_general_dilated)
    )
    assert ours == theirs


BAD = {
    "ranks": ((2, 3, 5), (4, 3, 2, 2), (1,), "SAME", {}),
    "features": ((2, 3, 5), (4, 2, 2), (1,), "SAME", {}),
    "padding": ((2, 3, 5), (4, 3, 2), (1,), "SOME", {}),
    "strides": ((2, 3, 5), (4, 3, 2), (1, 1), "SAME", {}),
    "zero stride": ((2, 3, 5), (4, 3, 2), (0,), "SAME", {}),
    "pairs": ((2, 3, 5), (4, 3, 2), (1,), ((1, 1), (1, 1)), {}),
    "groups": ((2, 3, 5), (4, 1, 2), (1,), "SAME", {"feature_group_count": 3}),
    "no groups": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"feature_group_count": 0}),
    "both groups": (
        (2, 4, 5),
        (4, 2, 2),
        (1,),
        "SAME",
        {"feature_group_count": 2, "batch_group_count": 2},
    ),
    "batch groups": ((3, 3, 5), (4, 3, 2), (1,), "SAME", {"batch_group_count": 2}),
    "numbers": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"dimension_numbers": ("NCW", "OIH", "NCW")}),
    "dilation": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"rhs_dilation": (0,)}),
    "named padding": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"lhs_dilation": (2,)}),
    "dtype": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"preferred_element_type": np.int32}),
    "precision": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"precision": "fast"}),
    "precisions": ((2, 3, 5), (4, 3, 2), (1,), "SAME", {"precision": (1, 2)}),
}


def error_of(fn, shapes, dtypes, *args, **options):
    lhs, rhs = (np.ones(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
    try:
        fn(lhs, rhs, *args, **options)
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_errors_are_laxs(bad):
    lhs, rhs, *args, options = bad
    theirs = error_of(lax.conv_general_dilated, (lhs, rhs), (np.float32,) * 2, *args, **options)
    ours = error_of(jaxconv.conv_general_dilated, (lhs, rhs), (np.float32,) * 2, *args, **options)
    assert ours == theirs
    assert theirs is not None


def test_mixed_dtypes_raise_as_in_lax():
    shapes = ((2, 3, 5), (4, 3, 2))
    for dtypes in itertools.permutations((np.float32, np.float16, np.int32), 2):
        theirs = error_of(lax.conv_general_dilated, shapes, dtypes, (1,), "SAME")
        assert error_of(jaxconv.conv_general_dilated, shapes, dtypes, (1,), "SAME") == theirs
        assert theirs is not None


def test_use_implementation_reaches_it():
    lhs, rhs = arrays(NUMBERS["NHWC"], sizes_of(2))
    call = functools.partial(
        jaxconv.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=NUMBERS["NHWC"],
    )
    with jaxconv.use_implementation("lax"):
        program = jax.make_jaxpr(call)(lhs, rhs).jaxpr
    (equation,) = [eqn for eqn in equations(program) if eqn.primitive.name in NAMES]
    assert equation.params["implementation"] == "lax"
    error_of = (
        r"^conv_general_dilated: implementation \"taps\" does not support this convolution: .*"
        rf"Got lhs {re.escape(str(lhs.shape))}, rhs {re.escape(str(rhs.shape))}"
    )
    with jaxconv.use_implementation("taps"), pytest.raises(ValueError, match=error_of):
        call(lhs, rhs)
