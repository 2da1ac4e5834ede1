"""The three operators as plain array functions: one module per implementation and platform.

An implementation's module knows nothing of primitives, dispatch or Flax, and offers

    conv(x, kernel, spec, *, precision, dtype)          -> y       [N, *O, F]
    input_grad(g, kernel, spec, *, precision, dtype)    -> dx      [N, *S, C]
    filter_grad(x, g, spec, *, precision, dtype)        -> dkernel [*K, C/G, F]
    unsupported_reason(operator, spec, dtype)           -> why it cannot compute it, or None

``dtype`` is the result's. Operands may be of mixed dtypes (a cotangent beside a residual), and
float16 and bfloat16 accumulate in float32.

If its speed depends on a choice of tiles, the three operators also take ``tile=``, and it offers

    tile_config(operator, spec, dtype, device_kind)     -> the tile to use by default, hashable
    candidates(operator, spec, dtype, device_kind)      -> the tiles worth measuring, a tuple

``device_kind`` names the kind of device to compile for, as ``target.device_kind`` returns it.

One without tiles that is not always worth measuring offers ``candidates`` alone, which returns
``(None,)`` where it is and ``()`` where it is not.
"""
