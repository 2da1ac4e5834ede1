"""The three operators in plain XLA, on every platform.

- ``lax``: ``lax.conv_general_dilated`` and its transposes, which define the operators.
- ``taps``: depthwise convolutions as sums over taps; ``tap_plan`` decides how they are split.
- ``dots``: convolutions as matrix products.
- ``windows``: which inputs each tap reads, shared by ``taps`` and ``dots``.
"""
