"""Three hundred random convolutions against PyTorch in float64: values and both gradients."""

import jax
import numpy as np
import pytest

import jaxconv
from support.cases import operand, operands, random_cases
from support.oracle import Case

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("x64")

# Most of the time is compilation, and one program of many convolutions compiles faster than many.
TOGETHER = 25
CONVS = np.array_split(np.arange(225), 225 // TOGETHER)
TRANSPOSES = np.array_split(np.arange(75), 75 // TOGETHER)


def to_torch(array):
    """Channels-last activations as PyTorch lays them out: ``[N, C, *S]``."""
    return torch.tensor(np.moveaxis(array, -1, 1).copy(), requires_grad=True)


def kernel_to_torch(kernel):
    """``[*K, C/G, F]`` as ``[F, C/G, *K]``, for both of PyTorch's convolutions."""
    return torch.tensor(np.moveaxis(kernel, (-1, -2), (0, 1)).copy(), requires_grad=True)


def from_torch(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def kernel_from_torch(tensor):
    return np.moveaxis(tensor.detach().numpy(), (0, 1), (-1, -2))


def torch_results(call, x, k, g):
    """Value and both gradients of ``call`` in PyTorch, in our layouts."""
    x, k = to_torch(x), kernel_to_torch(k)
    y = call(x, k)
    dx, dk = torch.autograd.grad(y, (x, k), to_torch(g))
    return from_torch(y), from_torch(dx), kernel_from_torch(dk)


def our_results(calls, arrays):
    """The same of many calls in one program."""

    def run(arrays):
        results = []
        for call, (x, k, g) in zip(calls, arrays, strict=True):
            y, pull = jax.vjp(call, x, k)
            results.append((y, *pull(g)))
        return results

    # Optimizing the machine code takes half of the time and does not matter here.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(arrays)


def assert_equal(ours, theirs, case):
    for name, got, wanted in zip(("y", "dx", "dkernel"), ours, theirs, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10, err_msg=f"{name} of {case}")


def torch_conv(case: Case):
    function = getattr(torch.nn.functional, f"conv{case.rank}d")
    around = [width for pair in reversed(case.padding) for width in pair]

    def call(x, k):
        padded = torch.nn.functional.pad(x, around)
        return function(padded, k, stride=case.strides, dilation=case.dilation, groups=case.groups)

    return call


def our_conv(case: Case):
    return lambda x, k: jaxconv.conv(x, k, **case.options())


@pytest.mark.sample(9)
@pytest.mark.parametrize("indices", CONVS, ids=lambda indices: f"{indices[0]}-{indices[-1]}")
def test_conv(indices):
    selected = random_cases(2025 + int(indices[0]), len(indices))
    arrays = [operands(case, np.float64) for case in selected]
    results = our_results([our_conv(case) for case in selected], arrays)
    for case, ours, (x, k, g) in zip(selected, results, arrays, strict=True):
        assert_equal(ours, torch_results(torch_conv(case), x, k, g), case)


def torch_transpose(case: Case, extra):
    """Uncropped, then cropped on each side: PyTorch's own padding is symmetric."""
    function = getattr(torch.nn.functional, f"conv_transpose{case.rank}d")
    crop = [-width for pair in reversed(case.padding) for width in pair]

    def call(x, k):
        y = function(
            x,
            k,
            stride=case.strides,
            dilation=case.dilation,
            groups=case.groups,
            output_padding=extra,
        )
        return torch.nn.functional.pad(y, crop)

    return call


def our_transpose(case: Case, extra):
    return lambda x, k: jaxconv.conv_transpose(x, k, output_padding=extra, **case.options())


def transposable(case: Case, rng) -> tuple[Case, tuple[int, ...]]:
    """The case with as little padding as leaves something, and an output padding that is legal."""
    extents = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, _, d in case.axes]
    padding = tuple(
        pair if sum(pair) < extent else (0, 0)
        for pair, extent in zip(case.padding, extents, strict=True)
    )
    limits = [max(s, d) for s, d in zip(case.strides, case.dilation, strict=True)]
    return case.replace(padding=padding), tuple(int(rng.integers(limit)) for limit in limits)


@pytest.mark.sample(3)
@pytest.mark.parametrize("indices", TRANSPOSES, ids=lambda indices: f"{indices[0]}-{indices[-1]}")
def test_conv_transpose(indices):
    rng = np.random.default_rng(int(indices[0]))
    selected = [
        transposable(case, rng) for case in random_cases(77 + int(indices[0]), len(indices))
    ]
    calls = [our_transpose(*both) for both in selected]
    pairs = []
    for (case, _), call in zip(selected, calls, strict=True):
        x = operand((case.batch, *case.input_spatial, case.out_features), np.float64)
        k = operand(case.shape("k"), np.float64)
        pairs.append((x, k, operand(jax.eval_shape(call, x, k).shape, np.float64)))
    for both, ours, arrays in zip(selected, our_results(calls, pairs), pairs, strict=True):
        assert_equal(ours, torch_results(torch_transpose(*both), *arrays), both)


def test_the_cases_are_varied():
    """Every rank, unequal strides and dilation, lopsided and negative padding, odd groups."""
    selected = [
        case for indices in CONVS for case in random_cases(2025 + int(indices[0]), TOGETHER)
    ]
    assert {case.rank for case in selected} == {1, 2, 3}
    assert any(len(set(case.strides)) > 1 for case in selected)
    assert any(len(set(case.dilation)) > 1 for case in selected)
    assert any(low != high for case in selected for low, high in case.padding)
    assert any(min(pair) < 0 for case in selected for pair in case.padding)
    odd = [case for case in selected if case.groups in (3, 5, 7)]
    assert any(case.in_features > case.groups for case in odd)
    assert any(case.in_features == case.groups < case.out_features for case in odd)
