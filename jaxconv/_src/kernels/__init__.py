"""Plain array functions for the three operators, one file a way of computing them.

Every module here offers the same names, and knows nothing of primitives, dispatch or Flax:

    conv(x, kernel, spec, *, precision, dtype)          -> y       [N, *O, F]
    input_grad(g, kernel, spec, *, precision, dtype)    -> dx      [N, *S, C]
    filter_grad(x, g, spec, *, precision, dtype)        -> dkernel [*K, C/G, F]
    unsupported_reason(operator, spec, dtype)                      -> why this module cannot serve, or None

``dtype`` is the result's; operands may be of mixed dtypes (a cotangent beside a residual), and
float16 and bfloat16 accumulate in float32.
"""
