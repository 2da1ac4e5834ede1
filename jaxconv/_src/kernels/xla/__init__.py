"""The three operators in plain XLA, on every platform.

- ``lax``: ``lax.conv_general_dilated`` and its transposes, which define the operators.
- ``taps``: depthwise convolutions as sums over taps; ``tap_plan`` decides how they are split.
- ``dots``: convolutions as matrix products.
- ``fft``: convolutions by the fast Fourier transform; ``fft_plan`` chooses lengths and blocks,
  ``fft_layout`` arranges the arrays.
- ``windows``: which inputs each tap reads, shared by ``taps`` and ``dots``.
"""
