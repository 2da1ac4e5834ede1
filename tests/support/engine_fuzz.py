"""Calls the engine's handlers with random mistakes; run by ``test_engine_errors.py``.

    python -m support.engine_fuzz SEED COUNT

Run it in a process of its own, because it looks for crashes: the last line on stderr is the call
that crashed. Every call must either raise an error with a reason, or be a valid convolution and
return its values.
"""

from __future__ import annotations

import random
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv._src.geometry.epilogue import ACTIVATIONS, Epilogue
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.cpu import library, native
from support.engine import (
    DTYPES,
    EPILOGUE_OPERANDS,
    close,
    epilogue_operands,
    fused_close,
    fused_oracle,
    operands,
    oracle,
    random_epilogue,
    random_spec,
)

EXTREMES = (0, 1, 2, 3, -1, -7, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))
KINDS = ("bool", "int32", "uint8", "complex64", "float16", "float32", "bfloat16")
SHAPES = ("strides", "padding", "dilation")


class Call:
    """One call of a handler, valid until ``spoil`` changes it."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.spec = random_spec(rng)
        self.operator = rng.choice(tuple(Operator))
        self.target = f"jaxconv_{self.operator.value}"
        self.dtype = rng.choice(("float32", "bfloat16", "float16"))
        self.operands = list(operands(self.operator, self.spec, self.dtype))
        self.results = [(self.spec.result_shape(self.operator), self.dtype)]
        self.attributes = {
            "strides": np.array(self.spec.strides, np.int64),
            "padding": np.array(self.spec.padding, np.int64).reshape(-1),
            "dilation": np.array(self.spec.dilation, np.int64),
            "groups": np.int64(self.spec.groups),
        }
        if self.operator is Operator.CONV and rng.random() < 0.7:
            self.fuse()

    def fuse(self) -> None:
        """Makes it a fused convolution."""
        self.target = library.FUSED_TARGET
        epilogue = random_epilogue(self.rng)
        self.operands += epilogue_operands(self.spec, epilogue, self.dtype)
        self.attributes |= {f"has_{n}": n in epilogue.operands for n in EPILOGUE_OPERANDS}
        self.attributes["activation"] = np.int64(native.activation_index(epilogue))
        self.attributes["negative_slope"] = np.float64(epilogue.negative_slope)
        self.attributes["packed_shape"] = np.array([], np.int64)

    def spoil(self) -> None:
        self.rng.choice((self.size, self.attribute, self.attribute, self.kind, self.number))()

    def array(self) -> int | None:
        """One of the remaining operands, or None for the result."""
        return self.rng.choice((*range(len(self.operands)), None))

    def size(self) -> None:
        """Another extent or rank of an operand or the result."""
        at = self.array()
        shape = list(self.results[0][0] if at is None else self.operands[at].shape)
        axis = self.rng.randrange(max(1, len(shape)))
        change = self.rng.choice(("extent", "drop", "insert", "swap") if shape else ("insert",))
        if change == "extent":
            shape[axis] = self.rng.choice((0, 1, shape[axis] + 1, 2 * shape[axis]))
        elif change == "drop":
            del shape[axis]
        elif change == "insert":
            shape.insert(axis, self.rng.choice((1, 2)))
        else:
            shape.reverse()
        if at is None:
            self.results[0] = (tuple(shape), self.results[0][1])
        else:
            self.operands[at] = np.ones(shape, self.operands[at].dtype)

    def attribute(self) -> None:
        """A missing, unknown, mistyped, too long or extreme attribute."""
        numbers = ("groups", *(("activation",) if self.target == library.FUSED_TARGET else ()))
        name = self.rng.choice((*SHAPES, *numbers))
        change = self.rng.choice(("value", "value", "value", "length", "missing", "type", "more"))
        if change == "missing":
            self.attributes.pop(name, None)
        elif change == "more":
            self.attributes["unknown"] = np.int64(1)
        elif change == "type":
            value = self.rng.choice(("two", np.float32(1), True, np.int32(1), np.ones(2, np.int32)))
            self.attributes[name] = value
        elif name in numbers:
            self.attributes[name] = np.int64(self.rng.choice(EXTREMES))
        elif name in self.attributes and np.ndim(self.attributes[name]) == 1:
            value = np.array(self.attributes[name], np.int64)
            if change == "value" and value.size:
                value[self.rng.randrange(value.size)] = self.rng.choice(EXTREMES)
            else:
                value = np.resize(value, self.rng.choice((0, 1, 5, 8)))
            self.attributes[name] = value

    def kind(self) -> None:
        """Another element type of an operand or the result."""
        at, kind = self.array(), jnp.dtype(self.rng.choice(KINDS))
        if at is None:
            self.results[0] = (self.results[0][0], kind.name)
        else:
            self.operands[at] = np.ones(self.operands[at].shape, kind)

    def number(self) -> None:
        """Too few or too many operands or results."""
        changes = [lambda: self.results.append(self.results[0])]
        if self.operands:
            changes += [self.operands.pop, lambda: self.operands.append(self.operands[0])]
        self.rng.choice(changes)()

    def run(self) -> np.ndarray:
        results = tuple(jax.ShapeDtypeStruct(shape, kind) for shape, kind in self.results)
        call = jax.ffi.ffi_call(self.target, results)
        return np.asarray(call(*map(jnp.asarray, self.operands), **self.attributes)[0])

    def meant(self) -> ConvSpec:
        """The convolution that a call which succeeded must have been."""
        assert {a.dtype for a in self.operands} == {jnp.dtype(self.results[0][1])}
        shapes = [a.shape for a in self.operands]
        result = self.results[0][0]
        x = result if self.operator is Operator.INPUT_GRAD else shapes[0]
        kernel = result if self.operator is Operator.FILTER_GRAD else shapes[1]
        strides, padding, dilation = (self.attributes[name].tolist() for name in SHAPES)
        spec = ConvSpec(
            batch=x[0],
            in_features=x[-1],
            out_features=kernel[-1],
            input_spatial=tuple(x[1:-1]),
            kernel_spatial=tuple(kernel[:-2]),
            strides=tuple(strides),
            padding=tuple(zip(padding[::2], padding[1::2], strict=True)),
            dilation=tuple(dilation),
            groups=int(self.attributes["groups"]),
        )
        assert tuple(shapes[:2]) == spec.operand_shapes(self.operator)
        assert result == spec.result_shape(self.operator)
        return spec

    def correct(self, result: np.ndarray) -> bool:
        """Whether a call that succeeded returned what it must have meant."""
        spec, dtype = self.meant(), self.results[0][1]
        assert dtype in DTYPES
        if self.target != library.FUSED_TARGET:
            expected = oracle(self.operator, spec, *self.operands)
            return close(self.operator, spec, result, expected, dtype)
        index = int(self.attributes["activation"])
        epilogue = Epilogue(
            **{name: bool(self.attributes[f"has_{name}"]) for name in EPILOGUE_OPERANDS},
            activation=(None, *ACTIVATIONS)[index],
            negative_slope=float(self.attributes["negative_slope"]),
        )
        x, kernel, *values = self.operands
        expected = fused_oracle(spec, epilogue, x, kernel, values)
        return fused_close(spec, result, expected, dtype)


def main(seed: int, count: int) -> None:
    library.load()
    rng = random.Random(seed)
    errors = 0
    for index in range(count):
        call = Call(rng)
        for _ in range(index % 3):
            call.spoil()
        what = (call.target, [a.shape for a in call.operands], call.results)
        print(*what, call.attributes, file=sys.stderr, flush=True)
        try:
            result = call.run()
        except Exception as error:
            message = str(error)
            assert index % 3, message
            assert "jaxconv: " in message or message.startswith("INVALID_ARGUMENT"), message
            errors += 1
            continue
        if 0 in result.shape:  # XLA does not call the handler
            continue
        assert call.correct(result)
    print(f"{count} calls: {errors} errors, the rest computed")
    assert count / 3 < errors < count


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
