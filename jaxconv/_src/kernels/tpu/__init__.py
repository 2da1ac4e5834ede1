"""Depthwise operators in Pallas for TPUs.

- ``entry``: the three operators as array functions.
- ``layout``: which axes are on sublanes and lanes.
- ``tiling``: which pixels of the source each pixel of a result reads, and the windows of tiles.
- ``generations``: what differs between generations of TPUs.
- ``tile_config``: the choice of tiles.
- ``call``: one kernel as a ``pallas_call``.
- ``job``: what is static in a kernel, and its loops.
- ``staging``, ``weights``, ``bodies``: the kernel itself.
"""
