"""Depthwise operators in Pallas for NVIDIA GPUs.

- ``entry``: the three operators as array functions.
- ``plan``: how the work is split into programs, and the choice of tiles.
- ``bodies``: the two kernels.
- ``tiles``: indices, loads and products of one tile, through Triton.
"""
