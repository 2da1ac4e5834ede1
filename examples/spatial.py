"""Segments scenes of digits in several processes, the images' height sharded over their devices.

    python examples/spatial.py                            2 processes on this machine
    python examples/spatial.py --processes 4              4 processes
    python examples/spatial.py --processes 2 --devices 2  2 processes of 2 CPU devices each

This is for images that are too large for one device. Each device holds a strip of rows of every
scene and of every layer's features, and receives from its neighbors the rows that its dilated
convolutions read beyond the strip: up to 16, which with four devices is more than a whole strip. As
in ``data_parallel.py``, the command also trains in one process and compares every loss.
"""

import dataclasses
import sys

from together import main

from jaxconv.models.context import DILATIONS
from jaxconv.train import context, digits
from jaxconv.train.recipe import Data, Score

SCENES = (160, 40)  # training and held-out scenes


def data() -> Data:
    parts = zip(digits.data(), SCENES, range(2), strict=True)
    return Data(*(context.compose(part, count, seed) for part, count, seed in parts))


RECIPE = dataclasses.replace(
    context.RECIPE,
    name="spatial",
    data=data,
    network=lambda rngs: context.Segmentation(DILATIONS, rngs),
    loss=context.loss,
    score=Score("mean IoU", context.mean_iou, "{:.1%}"),
    epochs=4,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, "height", __doc__.splitlines()[0]))
